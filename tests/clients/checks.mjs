// What the TypeScript drivers share: checks with a deadline, comparisons, and what the endpoint has to say.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

export const expected = JSON.parse(readFileSync(new URL('expected.json', import.meta.url)));
const DEADLINE_MS = 20_000;

/** Fails when `promise` takes longer than the deadline. */
export async function within(promise, what = 'the check') {
    let timer;
    const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`${what} took longer than ${DEADLINE_MS} ms`)), DEADLINE_MS);
    });
    try {
        return await Promise.race([promise, late]);
    } finally {
        clearTimeout(timer);
    }
}

/** Counts what passes and what fails, and prints a line for each. */
export class Checks {
    passed = 0;
    failed = 0;

    constructor(label) {
        this.label = label;
    }

    check = async (name, body) => {
        try {
            await within(Promise.resolve().then(body));
            this.passed += 1;
            console.log(`ok ${this.label} ${name}`);
        } catch (error) {
            this.failed += 1;
            console.log(`not ok ${this.label} ${name}`);
            console.log(`  ${String(error?.stack ?? error).split('\n').slice(0, 40).join('\n  ')}`);
        }
    };

    /** Prints the sum and ends the process. */
    exit() {
        console.log(`${this.passed} passed, ${this.failed} failed`);
        process.exit(this.failed === 0 ? 0 : 1);
    }
}

/** Notifications in the order of their arrival; `next` waits for the first one that is still unread and fits. */
export class Inbox {
    unread = [];
    waiting = [];

    push(message) {
        this.unread.push(message);
        for (const wake of this.waiting.splice(0)) wake();
    }

    async next(method, fits = () => true) {
        for (;;) {
            const at = this.unread.findIndex(message => message.method === method && fits(message.params));
            if (at >= 0) return this.unread.splice(at, 1)[0];
            await within(new Promise(resolve => this.waiting.push(resolve)), `waiting for ${method}`);
        }
    }

    count(method, fits = () => true) {
        return this.unread.filter(message => message.method === method && fits(message.params)).length;
    }
}

/** Keeps of `value` only the members `like` has, so that additions of the server do not matter. */
export function only(value, like) {
    return Object.fromEntries(Object.keys(like).map(key => [key, value?.[key]]));
}

export async function rejects(promise, code, data, kind = Error) {
    const error = await promise.then(
        value => assert.fail(`expected an error, got ${JSON.stringify(value)}`),
        error => error
    );
    assert.equal(error.code, code, `${error.code}: ${error.message}`);
    assert.ok(error instanceof kind, error.constructor.name);
    if (data !== undefined) assert.deepEqual(error.data, data);
}

export function assertListed(list, key, wanted) {
    const names = list.map(entry => entry[key]);
    assert.equal(new Set(names).size, names.length, 'listed twice');
    for (const [name, entry] of Object.entries(wanted)) {
        const found = list.find(candidate => candidate[key] === name);
        assert.ok(found, `${name} is not listed among ${names.join(', ')}`);
        assert.deepEqual(only(found, entry), entry);
    }
    return names;
}
