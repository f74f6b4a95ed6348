// One call by one Node client, as its users write it: node call.mjs CLIENT URL MODEL
//
// CLIENT is openai, anthropic or fetch. The base URL and key of the model clients come from their own environment variables;
// URL is what fetch gets. Exit status 0: answered; 1: refused or failed, with what a person sees of it on standard error.
const [client, url, model] = process.argv.slice(2);
const messages = [{ role: "user", content: "Say hello." }];

const clients = {
  async openai() {
    const { default: OpenAI } = await import("openai");
    const answer = await new OpenAI({ maxRetries: 0 }).chat.completions.create({ model, messages });
    return answer.choices[0].message.content;
  },
  async anthropic() {
    const { default: Anthropic } = await import("@anthropic-ai/sdk");
    const answer = await new Anthropic({ maxRetries: 0 }).messages.create({ model, max_tokens: 16, messages });
    return answer.content[0].text;
  },
  async fetch() {
    const answer = await fetch(url);
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${answer.status} ${text}`);
    return text;
  },
};

try {
  console.log(await clients[client]());
} catch (problem) {
  console.error(`${problem.name}: ${problem.message} ${problem.cause?.message ?? ""}`);
  process.exitCode = 1;
}
