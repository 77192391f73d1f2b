// The official openai client of npm against a server of ours; prints one JSON object that the test looks at.
const OpenAI = require("openai");

async function main(baseURL, model) {
  const client = new OpenAI({ baseURL, apiKey: "unused", maxRetries: 0 });
  const found = {};
  found.models = [];
  for await (const each of client.models.list()) found.models.push(each.id);

  const completion = { model, prompt: "The sea keeps", seed: 1, max_tokens: 20, logprobs: 2 };
  found.completion = await client.completions.create(completion);
  found.streamed = "";
  for await (const chunk of await client.completions.create({ ...completion, stream: true }))
    found.streamed += chunk.choices[0].text;

  const chat = { model, messages: [{ role: "user", content: "What does the sea bring? 🌊" }], seed: 1, max_tokens: 20 };
  found.chat = await client.chat.completions.create(chat);
  const stream = client.chat.completions.stream({ ...chat, stream_options: { include_usage: true } });
  found.chatStreamed = await stream.finalChatCompletion();
  found.usage = await stream.totalUsage();

  found.errors = {};
  const wrong = {
    temperature: { ...completion, temperature: -1 },
    model: { ...completion, model: "no-such" },
  };
  for (const [name, body] of Object.entries(wrong)) {
    try {
      await client.completions.create(body);
    } catch (error) {
      found.errors[name] = {
        class: error.constructor.name, status: error.status, code: error.code, param: error.param, id: error.requestID,
      };
    }
  }

  // Gone after the first piece.
  for await (const chunk of await client.completions.create({ ...completion, max_tokens: 900, stream: true })) {
    if (chunk) break;
  }
  process.stdout.write(JSON.stringify(found));
}

main(process.argv[2], process.argv[3]);
