// One session with an MCP server by a TypeScript SDK: session.mjs URL TOKEN SDK, where SDK is v1, v2 or v2-auto.
// Prints as JSON what a program sees: the names of the tools, how many resources and prompts there are, and what each call gave.

const [url, token, sdk] = process.argv.slice(2);
const options = { requestInit: { headers: { Authorization: "Bearer " + token } } };
const me = { name: "session", version: "1" };
let client, transport;
if (sdk === "v1") {
  const { Client } = await import("@modelcontextprotocol/sdk/client/index.js");
  const { StreamableHTTPClientTransport } = await import("@modelcontextprotocol/sdk/client/streamableHttp.js");
  client = new Client(me);
  transport = new StreamableHTTPClientTransport(new URL(url), options);
} else {
  const { Client, StreamableHTTPClientTransport } = await import("@modelcontextprotocol/client");
  client = new Client(me, sdk === "v2-auto" ? { versionNegotiation: { mode: "auto" } } : {});
  transport = new StreamableHTTPClientTransport(new URL(url), options);
}

const seen = {};
async function note(what, call, show) {
  try {
    seen[what] = show(await call());
  } catch (problem) { // whatever the SDK throws is what its user sees
    seen[what] = `${problem.constructor.name}: ${problem.message}`;
  }
}
const text = (answer) => (answer.isError ? "error: " : "") + answer.content[0].text;

await client.connect(transport);
await note("tools", () => client.listTools(), (r) => r.tools.map((t) => t.name).sort());
await note("resources", () => client.listResources(), (r) => r.resources.length);
await note("prompts", () => client.listPrompts(), (r) => r.prompts.length);
await note("echo", () => client.callTool({ name: "echo", arguments: { message: "hello" } }), text);
await note("env", () => client.callTool({ name: "get-env", arguments: {} }), (r) => text(r).slice(0, 1));
await note("sum", () => client.callTool({ name: "get-sum", arguments: { a: 2, b: 3 } }), text);
await client.close();
console.log(JSON.stringify(seen, Object.keys(seen).sort()));
process.exit(0);
