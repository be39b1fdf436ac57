// Drives one MCP endpoint with the official TypeScript client: node drive.mjs URL legacy|auto|2026-07-28
//
// Prints `ok|not ok typescript MODE CHECK` for every check and `N passed, N failed` at the end; exits 0 only without
// failures. What the endpoint has to say stands in expected.json, which the Python driver reads too.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { Client, ResourceNotFoundError, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { assertListed, Checks, expected, Inbox, only, rejects, within } from './checks.mjs';

const [url, mode] = process.argv.slice(2);
const modes = { legacy: 'legacy', auto: 'auto', '2026-07-28': { pin: '2026-07-28' } };
if (!url || !(mode in modes)) {
    console.error('usage: drive.mjs URL legacy|auto|2026-07-28');
    process.exit(2);
}
const modern = mode !== 'legacy';
const checks = new Checks(`typescript ${mode}`);
const { check } = checks;
/** The client under test, with scripted answers to what the server asks. */
class Peer {
    inbox = new Inbox();
    asked = [];
    answers = {};
    streamOpen = Promise.withResolvers();

    constructor(capabilities = { elicitation: { form: {}, url: {} }, sampling: {}, roots: {} }) {
        this.client = new Client(
            { name: 'trunkline-typescript-driver', version: '1.0.0' },
            { capabilities, versionNegotiation: { mode: modes[mode] } }
        );
        for (const method of ['elicitation/create', 'sampling/createMessage', 'roots/list']) {
            const capability = method.split('/')[0];
            if (!(capability in capabilities)) continue;
            this.client.setRequestHandler(method, request => {
                this.asked.push({ method, params: request.params });
                return this.answers[method](request.params);
            });
        }
        for (const method of [
            'notifications/resources/updated',
            'notifications/resources/list_changed',
            'notifications/tools/list_changed',
            'notifications/prompts/list_changed',
            'notifications/message'
        ]) {
            this.client.setNotificationHandler(method, message => this.inbox.push({ method, params: message.params }));
        }
    }

    async connect() {
        this.transport = new StreamableHTTPClientTransport(new URL(url), {
            fetch: async (input, init) => {
                const response = await fetch(input, init);
                if ((init?.method ?? 'GET') === 'GET' && response.ok) this.streamOpen.resolve();
                return response;
            }
        });
        await this.client.connect(this.transport);
        return this;
    }

    /** Opens whatever carries notifications in this era; returns how to stop it. */
    async watch({ tools = false, prompts = false, resources = [] }) {
        if (modern) {
            const filter = {};
            if (tools) filter.toolsListChanged = true;
            if (prompts) filter.promptsListChanged = true;
            if (resources.length > 0) filter.resourceSubscriptions = resources;
            const subscription = await this.client.listen(filter);
            assert.deepEqual(subscription.honoredFilter, filter);
            return async () => {
                await subscription.close();
                assert.equal(await subscription.closed, 'local');
            };
        }
        await within(this.streamOpen.promise, 'opening the GET stream');
        for (const uri of resources) assert.deepEqual(await this.client.subscribeResource({ uri }), {});
        return async () => {
            for (const uri of resources) assert.deepEqual(await this.client.unsubscribeResource({ uri }), {});
        };
    }

    async text(name, args, options) {
        const result = await this.client.callTool({ name, arguments: args }, options);
        assert.ok(!result.isError, `${name} failed: ${JSON.stringify(result.content)}`);
        assert.equal(result.content.length, 1);
        assert.equal(result.content[0].type, 'text');
        return result.content[0].text;
    }

    async close() {
        if (!modern) await this.transport.terminateSession();
        await this.client.close();
    }
}

async function connecting(peer) {
    await check('connect', async () => {
        await peer.connect();
        const { client } = peer;
        assert.equal(client.getNegotiatedProtocolVersion(), modern ? '2026-07-28' : '2025-11-25');
        assert.equal(client.getProtocolEra(), modern ? 'modern' : 'legacy');
        assert.equal(client.getServerVersion().name, expected.server);
        const capabilities = client.getServerCapabilities();
        assert.equal(capabilities.tools.listChanged, true);
        assert.equal(capabilities.prompts.listChanged, true);
        assert.equal(capabilities.resources.listChanged, true);
        assert.equal(capabilities.resources.subscribe, true);
        assert.deepEqual(capabilities.completions, {});
        assert.equal(peer.transport.sessionId === undefined, modern);
    });
}

async function listing({ client }) {
    await check('list tools', async () => {
        const { tools } = await client.listTools();
        const names = assertListed(tools, 'name', expected.tools);
        assert.deepEqual(names, [...names].sort(), 'tools are listed in order of their names');
        for (const tool of tools) assert.ok(tool.description && tool.inputSchema.type === 'object', tool.name);
    });
    await check('list resources', async () => {
        assertListed((await client.listResources()).resources, 'uri', expected.resources);
    });
    await check('list templates', async () => {
        assertListed((await client.listResourceTemplates()).resourceTemplates, 'uriTemplate', expected.templates);
    });
    await check('list prompts', async () => {
        assertListed((await client.listPrompts()).prompts, 'name', expected.prompts);
    });
    await check('list refuses a bad cursor', () => rejects(client.listTools({ cursor: 'no such cursor' }), -32602));
}

async function using(peer) {
    const { client } = peer;
    for (const call of expected.calls) {
        await check(call.check, async () => {
            const result = await client.callTool({ name: call.name, arguments: call.arguments });
            const { content, isError = false, structuredContent } = result;
            const { isError: wantedError = false, ...wanted } = call.result;
            assert.equal(isError, wantedError);
            assert.deepEqual(only({ content, structuredContent }, wanted), wanted);
        });
    }
    await check('call unknown tool', () => rejects(client.callTool({ name: 'no_such_tool', arguments: {} }), -32602));
    await check('call with wrong input', async () => {
        const result = await client.callTool({ name: 'calculator', arguments: { operation: 'add', a: 'one', b: 2 } });
        assert.equal(result.isError, true);
        assert.equal(result.content[0].type, 'text');
    });
    await check('calls in parallel', async () => {
        const sent = Array.from({ length: 24 }, (_, n) => `call ${n}`);
        const back = await Promise.all(sent.map(message => peer.text('echo', { message })));
        assert.deepEqual(back.map(text => JSON.parse(text).echo), sent);
    });
    for (const read of expected.reads) {
        await check(read.check, async () => {
            assert.deepEqual((await client.readResource({ uri: read.uri })).contents, read.contents);
        });
    }
    await check('read unknown resource', () => {
        // This client shows the older revisions' -32002 as the newer -32602; the Python one shows what was sent.
        const uri = 'test://no-such-resource';
        return rejects(client.readResource({ uri }), -32602, { uri }, ResourceNotFoundError);
    });
    for (const get of expected.gets) {
        await check(get.check, async () => {
            const params = { name: get.name, ...(get.arguments && { arguments: get.arguments }) };
            assert.deepEqual((await client.getPrompt(params)).messages, get.messages);
        });
    }
    await check('get unknown prompt', () => rejects(client.getPrompt({ name: 'no_such_prompt' }), -32602));
    await check('get without an argument', () =>
        rejects(client.getPrompt({ name: 'test_prompt_with_arguments', arguments: { arg1: 'x' } }), -32602));
    for (const wanted of expected.completions) {
        await check(wanted.check, async () => {
            const { completion } = await client.complete({
                ref: wanted.ref,
                argument: wanted.argument,
                ...(wanted.context && { context: { arguments: wanted.context } })
            });
            assert.deepEqual(completion.values, wanted.values);
            assert.ok(!completion.hasMore);
        });
    }
}

async function running(peer) {
    await check('progress', async () => {
        const seen = [];
        const text = await peer.text('test_tool_with_progress', {}, { onprogress: progress => seen.push(progress) });
        assert.deepEqual(seen.map(({ progress, total }) => [progress, total]), [[0, 100], [50, 100], [100, 100]]);
        assert.equal(text, 'Progress reported');
    });
    await check('log', async () => {
        const params = { name: 'test_tool_with_logging', arguments: {} };
        if (modern) params._meta = { 'io.modelcontextprotocol/logLevel': 'info' };
        else assert.deepEqual(await peer.client.setLoggingLevel('info'), {});
        await peer.client.callTool(params);
        for (const data of expected.logs) {
            const message = await peer.inbox.next('notifications/message');
            assert.deepEqual(only(message.params, { level: '', data: '' }), { level: 'info', data });
        }
        assert.equal(peer.inbox.count('notifications/message'), 0);
    });
    await check('log below the level is not sent', async () => {
        const params = { name: 'test_tool_with_logging', arguments: {} };
        if (modern) params._meta = { 'io.modelcontextprotocol/logLevel': 'warning' };
        else await peer.client.setLoggingLevel('warning');
        await peer.client.callTool(params);
        assert.equal(peer.inbox.count('notifications/message'), 0);
    });
    await check('cancel', async () => {
        const label = randomUUID();
        const abort = new AbortController();
        const held = Promise.withResolvers();
        const call = peer.client.callTool(
            { name: 'hold', arguments: { label } },
            { signal: abort.signal, onprogress: progress => held.resolve(progress.message) }
        );
        call.catch(() => {});
        assert.equal(await within(held.promise, 'the start of the call'), `holding ${label}`);
        abort.abort('changed my mind');
        await assert.rejects(call);
        assert.equal(await peer.text('was_cancelled', { label }), 'true');
    });
    if (!modern) await check('ping', async () => assert.deepEqual(await peer.client.ping(), {}));
}

async function asking(peer) {
    const { client, answers } = peer;
    const schema = {
        type: 'object',
        properties: {
            username: { type: 'string', description: "User's response" },
            email: { type: 'string', description: "User's email address" }
        },
        required: ['username', 'email']
    };
    const answered = { username: 'ada', email: 'ada@example.org' };
    for (const [action, content] of [['accept', answered], ['decline'], ['cancel']]) {
        await check(`elicitation ${action}`, async () => {
            answers['elicitation/create'] = () => ({ action, ...(content && { content }) });
            const text = await peer.text('test_elicitation', { message: 'Who are you?' });
            const { params } = peer.asked.pop();
            assert.equal(params.message, 'Who are you?');
            assert.equal(params.mode ?? 'form', 'form');
            assert.deepEqual(params.requestedSchema, schema);
            const [, shown, sent] = /^User response: action=(\w+), content=(.*)$/.exec(text) ?? assert.fail(text);
            assert.equal(shown, action);
            assert.deepEqual(JSON.parse(sent), content ?? null);
        });
    }
    await check('elicitation url', async () => {
        answers['elicitation/create'] = () => ({ action: 'accept' });
        assert.equal(await peer.text('ask_link', {}), 'Link: accept');
        const { params } = peer.asked.pop();
        assert.equal(params.mode, 'url');
        assert.equal(params.url, 'https://example.com/authorise?for=trunkline');
        assert.equal(params.message, 'Please authorise the test');
        assert.equal(typeof params.elicitationId, modern ? 'undefined' : 'string');
    });
    await check('elicitation defaults', async () => {
        answers['elicitation/create'] = () => ({ action: 'decline' });
        await peer.text('test_elicitation_sep1034_defaults', {});
        const { properties } = peer.asked.pop().params.requestedSchema;
        const defaults = Object.fromEntries(Object.entries(properties).map(([name, field]) => [name, field.default]));
        assert.deepEqual(defaults, { name: 'John Doe', age: 30, score: 95.5, status: 'active', verified: true });
    });
    await check('sampling', async () => {
        answers['sampling/createMessage'] = params => ({
            role: 'assistant',
            model: 'driver',
            content: { type: 'text', text: `you said ${params.messages[0].content.text}` }
        });
        assert.equal(await peer.text('test_sampling', { prompt: 'hello' }), 'LLM response: you said hello');
        const { params } = peer.asked.pop();
        assert.equal(params.maxTokens, 100);
        assert.deepEqual(params.messages, [{ role: 'user', content: { type: 'text', text: 'hello' } }]);
    });
    await check('roots', async () => {
        answers['roots/list'] = () => ({ roots: [{ uri: 'file:///driver', name: 'Driver' }] });
        assert.equal(await peer.text('test_input_required_result_list_roots', {}), 'Roots: file:///driver');
        assert.equal(peer.asked.pop().method, 'roots/list');
    });
    await check('three questions at once', async () => {
        answers['elicitation/create'] = () => ({ action: 'accept', content: { name: 'Ada' } });
        answers['sampling/createMessage'] = () => ({
            role: 'assistant',
            model: 'driver',
            content: { type: 'text', text: 'Good morning' }
        });
        assert.equal(
            await peer.text('test_input_required_result_multiple_inputs', {}),
            'Good morning, Ada! Roots: file:///driver'
        );
        assert.deepEqual(peer.asked.splice(0).map(({ method }) => method).sort(), [
            'elicitation/create',
            'roots/list',
            'sampling/createMessage'
        ]);
    });
    await check('two rounds', async () => {
        answers['elicitation/create'] = ({ requestedSchema }) => ({
            action: 'accept',
            content: 'name' in requestedSchema.properties ? { name: 'Ada' } : { color: 'blue' }
        });
        assert.equal(await peer.text('test_input_required_result_multi_round', {}), 'Ada likes blue');
        assert.deepEqual(
            peer.asked.splice(0).map(({ params }) => params.message),
            ['Step 1: What is your name?', 'Step 2: What is your favorite color?']
        );
    });
    await check('prompt that asks', async () => {
        answers['elicitation/create'] = () => ({ action: 'accept', content: { context: 'the sea' } });
        const { messages } = await client.getPrompt({ name: 'test_input_required_result_prompt' });
        assert.deepEqual(messages, [{ role: 'user', content: { type: 'text', text: 'Use this context: the sea' } }]);
        assert.equal(peer.asked.pop().params.message, 'What context should the prompt use?');
    });
    await check('nothing else was asked', () => assert.deepEqual(peer.asked, []));
    await check('asking a client that cannot answer', async () => {
        const silent = await new Peer({}).connect();
        try {
            const call = silent.client.callTool({ name: 'test_elicitation', arguments: { message: 'Anybody?' } });
            const outcome = await call.then(
                result => (result.isError ? 'error' : `answered ${JSON.stringify(result.content)}`),
                error => (modern ? error.code : 'error')
            );
            assert.equal(outcome, modern ? -32021 : 'error');
        } finally {
            await silent.close();
        }
    });
}

async function subscribing(peer) {
    const watched = 'test://watched-resource';
    const neighbour = 'test://watched-neighbour';
    const updated = 'notifications/resources/updated';
    await check('resource updated', async () => {
        const stop = await peer.watch({ resources: [watched] });
        const revision = await peer.text('touch', { uri: watched });
        assert.equal((await peer.inbox.next(updated)).params.uri, watched);
        const { contents } = await peer.client.readResource({ uri: watched }, { cacheMode: 'refresh' });
        assert.equal(contents[0].text, `revision ${revision}`);
        await stop();
    });
    await check('unsubscribed resource stays silent', async () => {
        const stop = await peer.watch({ resources: [neighbour] });
        await peer.text('touch', { uri: watched });
        await peer.text('touch', { uri: neighbour });
        assert.equal((await peer.inbox.next(updated)).params.uri, neighbour);
        assert.equal(peer.inbox.count(updated), 0);
        await stop();
    });
    await check('subscribing to an unknown resource', async () => {
        const uri = 'test://no-such-resource';
        if (!modern) return rejects(peer.client.subscribeResource({ uri }), -32602, { uri }, ResourceNotFoundError);
        const subscription = await peer.client.listen({ resourceSubscriptions: [uri] });
        assert.deepEqual(subscription.honoredFilter.resourceSubscriptions ?? [], []);
        await subscription.close();
    });
    const tools = async () => (await peer.client.listTools()).tools;
    const prompts = async () => (await peer.client.listPrompts()).prompts;
    for (const [kind, trigger, dynamic, list] of [
        ['tools', 'test_trigger_tool_change', 'test_dynamic_tool', tools],
        ['prompts', 'test_trigger_prompt_change', 'test_dynamic_prompt', prompts]
    ]) {
        await check(`${kind} list changed`, async () => {
            const changed = `notifications/${kind}/list_changed`;
            const has = async () => (await list()).some(({ name }) => name === dynamic);
            const stop = await peer.watch({ [kind]: true });
            const before = await has();
            for (const now of [!before, before]) {
                await peer.text(trigger, {});
                await peer.inbox.next(changed);
                assert.equal(await has(), now);
            }
            assert.equal(peer.inbox.count(changed), 0);
            await stop();
        });
    }
}

const peer = new Peer();
await connecting(peer);
if (checks.failed === 0) {
    await listing(peer);
    await using(peer);
    await running(peer);
    await asking(peer);
    await subscribing(peer);
}
await check('close', () => peer.close());
checks.exit();
