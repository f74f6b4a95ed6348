"""What the comparison needs inside each of LiteLLM's worker processes.

LiteLLM adds empty provider_specific_fields to the answer. Without them it has the upstream's content and length, which
every answer is checked for.
"""

import ctypes
import signal

from litellm.integrations.custom_logger import CustomLogger

ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a worker ends with the process that has started it


class Plain(CustomLogger):
    async def async_post_call_success_hook(self, data, user_api_key_dict, response):
        for choice in response.choices:
            choice.provider_specific_fields = None
            choice.message.provider_specific_fields = None
        return response


plain = Plain()
