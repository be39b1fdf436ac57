// A newcomer's client: reads a configuration as `trunkline up` prints it, does one of each, prints what came as JSON.
import { readFileSync } from 'node:fs';
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';

const { mcpServers } = JSON.parse(readFileSync(0));
const [{ type, url }] = Object.values(mcpServers);
if (type !== 'http') throw new Error(`a transport of type ${type}`);
const client = new Client({ name: 'newcomer', version: '1.0.0' }, { versionNegotiation: { mode: 'auto' } });
await client.connect(new StreamableHTTPClientTransport(new URL(url)));
const { tools } = await client.listTools();
const call = await client.callTool({ name: 'calculator', arguments: { operation: 'add', a: 2, b: 40 } });
const { contents } = await client.readResource({ uri: 'file:///docs/welcome.md' });
const { messages } = await client.getPrompt({ name: 'greet', arguments: { who: 'Ada' } });
console.log(
    JSON.stringify({
        revision: client.getNegotiatedProtocolVersion(),
        tools: tools.map(tool => tool.name),
        sum: call.structuredContent.result,
        resource: contents[0].text,
        prompt: messages[0].content.text
    })
);
await client.close();
