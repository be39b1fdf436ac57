// Drives one mesh with the v1 TypeScript client over HTTP+SSE: node sse.mjs URL 2024-11-05|newest
//
// URL is that of the MCP endpoint; the event stream is at /sse beside it. The client asks for the newest revision it knows,
// which the transport may carry; in the mode 2024-11-05 its `initialize` is made to ask for that. Prints what drive.mjs prints.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import * as types from '@modelcontextprotocol/sdk/types.js';
import { assertListed, Checks, expected, Inbox, only, rejects, within } from './checks.mjs';

const [url, mode] = process.argv.slice(2);
if (!url || !['2024-11-05', 'newest'].includes(mode)) {
    console.error('usage: sse.mjs URL 2024-11-05|newest');
    process.exit(2);
}
const oldest = mode === '2024-11-05';
const checks = new Checks(`typescript v1 sse ${mode}`);
const { check } = checks;

const inbox = new Inbox();
const asked = [];
const answers = {};
const statuses = [];
let endpoint;

const client = new Client(
    { name: 'trunkline-typescript-v1-driver', version: '1.0.0' },
    { capabilities: { elicitation: {}, sampling: {}, roots: {} } }
);
for (const schema of [types.CreateMessageRequestSchema, types.ElicitRequestSchema, types.ListRootsRequestSchema]) {
    client.setRequestHandler(schema, request => {
        asked.push(request);
        return answers[request.method](request.params);
    });
}
for (const schema of [
    types.ResourceUpdatedNotificationSchema,
    types.ToolListChangedNotificationSchema,
    types.LoggingMessageNotificationSchema
]) {
    client.setNotificationHandler(schema, message => inbox.push(message));
}

const transport = new SSEClientTransport(new URL('/sse', url), {
    fetch: async (input, init) => {
        const response = await fetch(input, init);
        if (init?.method === 'POST') {
            endpoint = new URL(input);
            statuses.push(response.status);
        }
        return response;
    }
});
if (oldest) {
    const send = transport.send.bind(transport);
    transport.send = message =>
        send(message.method === 'initialize' ? { ...message, params: { ...message.params, protocolVersion: mode } } : message);
}

async function text(name, args, options) {
    const result = await client.callTool({ name, arguments: args }, undefined, options);
    assert.ok(!result.isError, `${name} failed: ${JSON.stringify(result.content)}`);
    return result.content[0].text;
}

async function listing() {
    await check('list tools', async () => assertListed((await client.listTools()).tools, 'name', expected.tools));
    await check('list resources', async () => {
        assertListed((await client.listResources()).resources, 'uri', expected.resources);
    });
    await check('list templates', async () => {
        assertListed((await client.listResourceTemplates()).resourceTemplates, 'uriTemplate', expected.templates);
    });
    await check('list prompts', async () => assertListed((await client.listPrompts()).prompts, 'name', expected.prompts));
}

async function using() {
    for (const call of expected.calls) {
        await check(call.check, async () => {
            const { content, isError = false } = await client.callTool({ name: call.name, arguments: call.arguments });
            assert.equal(isError, call.result.isError ?? false);
            if (oldest && call.result.content[0].type === 'audio') assert.equal(content[0].type, 'text');
            else assert.deepEqual(content, call.result.content);
        });
    }
    await check('call unknown tool', () => rejects(client.callTool({ name: 'no_such_tool', arguments: {} }), -32602));
    await check('calls in parallel', async () => {
        const sent = Array.from({ length: 24 }, (_, n) => `call ${n}`);
        const back = await Promise.all(sent.map(message => text('echo', { message })));
        assert.deepEqual(back.map(answer => JSON.parse(answer).echo), sent);
    });
    for (const read of expected.reads) {
        await check(read.check, async () => {
            assert.deepEqual((await client.readResource({ uri: read.uri })).contents, read.contents);
        });
    }
    await check('read unknown resource', () => rejects(client.readResource({ uri: 'test://no-such-resource' }), -32002));
    for (const get of expected.gets) {
        await check(get.check, async () => {
            const params = { name: get.name, ...(get.arguments && { arguments: get.arguments }) };
            assert.deepEqual((await client.getPrompt(params)).messages, get.messages);
        });
    }
    for (const { check: name, ref, argument, context, values } of expected.completions) {
        await check(name, async () => {
            const params = { ref, argument, ...(context && { context: { arguments: context } }) };
            assert.deepEqual((await client.complete(params)).completion.values, values);
        });
    }
}

async function running() {
    await check('progress', async () => {
        const seen = [];
        const onprogress = ({ progress, total }) => seen.push([progress, total]);
        assert.equal(await text('test_tool_with_progress', {}, { onprogress }), 'Progress reported');
        assert.deepEqual(seen, [[0, 100], [50, 100], [100, 100]]);
    });
    await check('log', async () => {
        assert.deepEqual(await client.setLoggingLevel('info'), {});
        await client.callTool({ name: 'test_tool_with_logging', arguments: {} });
        for (const data of expected.logs) {
            const { params } = await inbox.next('notifications/message');
            assert.deepEqual(only(params, { level: '', data: '' }), { level: 'info', data });
        }
    });
    await check('cancel', async () => {
        const label = randomUUID();
        const abort = new AbortController();
        const held = Promise.withResolvers();
        const options = { signal: abort.signal, onprogress: progress => held.resolve(progress.message) };
        const call = client.callTool({ name: 'hold', arguments: { label } }, undefined, options);
        call.catch(() => {});
        assert.equal(await within(held.promise, 'the start of the call'), `holding ${label}`);
        abort.abort('changed my mind');
        await assert.rejects(call);
        assert.equal(await text('was_cancelled', { label }), 'true');
    });
    await check('ping', async () => assert.deepEqual(await client.ping(), {}));
}

async function asking() {
    await check('sampling', async () => {
        answers['sampling/createMessage'] = params => ({
            role: 'assistant',
            model: 'driver',
            content: { type: 'text', text: `you said ${params.messages[0].content.text}` }
        });
        assert.equal(await text('test_sampling', { prompt: 'hello' }), 'LLM response: you said hello');
        const { params } = asked.pop();
        assert.equal(params.maxTokens, 100);
    });
    await check('roots', async () => {
        answers['roots/list'] = () => ({ roots: [{ uri: 'file:///driver', name: 'Driver' }] });
        assert.equal(await text('test_input_required_result_list_roots', {}), 'Roots: file:///driver');
        assert.equal(asked.pop().method, 'roots/list');
    });
    await check('elicitation', async () => {
        answers['elicitation/create'] = () => ({ action: 'decline' });
        const call = client.callTool({ name: 'test_elicitation', arguments: { message: 'Who are you?' } });
        const result = await call.catch(() => ({ isError: true }));
        // The revision of 2024 has none, so the tool is told that the client cannot.
        assert.equal(result.isError ?? false, oldest);
        assert.equal(asked.splice(0).length, oldest ? 0 : 1);
    });
    await check('nothing else was asked', () => assert.deepEqual(asked, []));
}

async function subscribing() {
    const uri = 'test://watched-resource';
    await check('resource updated', async () => {
        assert.deepEqual(await client.subscribeResource({ uri }), {});
        const revision = await text('touch', { uri });
        assert.equal((await inbox.next('notifications/resources/updated')).params.uri, uri);
        assert.equal((await client.readResource({ uri })).contents[0].text, `revision ${revision}`);
        assert.deepEqual(await client.unsubscribeResource({ uri }), {});
    });
    await check('tools list changed', async () => {
        for (let turn = 0; turn < 2; turn += 1) {
            await text('test_trigger_tool_change', {});
            await inbox.next('notifications/tools/list_changed');
        }
    });
}

await check('connect', async () => {
    await client.connect(transport);
    assert.equal(client.getServerVersion().name, expected.server);
    assert.equal(client.getServerCapabilities().completions === undefined, oldest);
    assert.equal(endpoint.pathname, '/messages');
});
if (checks.failed === 0) {
    await listing();
    await using();
    await running();
    await asking();
    await subscribing();
}
await check('every message was accepted at once', () => assert.deepEqual([...new Set(statuses)], [202]));
await check('close ends the session', async () => {
    await client.close();
    const headers = { 'content-type': 'application/json' };
    const post = () => fetch(endpoint, { method: 'POST', headers, body: '{"jsonrpc":"2.0","id":1,"method":"ping"}' });
    for (let response = await post(); response.status !== 404; response = await post()) {
        assert.equal(response.status, 202);
        await pause(20);
    }
});
checks.exit();
