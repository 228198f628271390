// The JavaScript client of OpenAI's interface against a running server of hone's.
//
// usage: node openai_client.mjs URL MODEL        URL: as `hone serve` says it; MODEL: the name of one with a chat template
//
// versions: node 20, openai 6.49.0
import assert from "node:assert";
import OpenAI from "openai";

const [url, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url + "/v1", apiKey: "any", maxRetries: 0 });
const ask = { model, messages: [{ role: "user", content: "Once upon a time" }], max_tokens: 20, seed: 3 };
const whole = await client.chat.completions.create(ask);
const content = whole.choices[0].message.content;
assert(content && whole.usage.completion_tokens > 0);

let streamed = "", usage = null;
for await (const part of await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } })) {
  streamed += part.choices[0]?.delta?.content ?? "";
  usage = part.usage ?? usage;
}
assert.equal(streamed, content);
assert.deepEqual(usage, whole.usage);

const [vector] = (await client.embeddings.create({ model, input: "Once upon a time" })).data;
assert(Math.abs(Math.hypot(...vector.embedding) - 1) < 1e-5);
await assert.rejects(client.chat.completions.create({ ...ask, n: 65 }), (error) => error instanceof OpenAI.BadRequestError && error.param === "n");
await assert.rejects(client.chat.completions.create({ ...ask, model: "gpt-4" }), OpenAI.NotFoundError);
console.log("ok");
