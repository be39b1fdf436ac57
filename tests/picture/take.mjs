// Takes pictures in a browser:
//   node take.mjs BROWSER FILE call URL SERVICE        a trace, with the first span of SERVICE opened: where its time went
//   node take.mjs BROWSER FILE crossing URL OPERATION  a trace, with every span of OPERATION opened: what their owners say
//   node take.mjs BROWSER FILE dashboard PAGE DATA     a page of ours that draws what is in the file DATA
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { chromium } from 'playwright-core';

const WIDER = 60;

// Opens a span beside its bar, which would explain itself.
async function open(page, row) {
    await row.waitFor({ timeout: 30_000 });
    await row.locator('.span-view').click({ position: { x: 3, y: 3 } });
}

const KINDS = {
    call: {
        viewport: { width: 1440, height: 516 },
        async prepare(page, url, service) {
            await page.goto(url);
            await open(page, page.locator('.span-row', { hasText: service }).first());
            await page.locator('.detail-row').waitFor();
        }
    },
    crossing: {
        viewport: { width: 1540, height: 1200 },
        async prepare(page, url, operation) {
            await page.goto(url);
            const rows = page.locator('.span-row', { hasText: operation });
            await rows.first().waitFor({ timeout: 30_000 });
            // Room for whole names.
            const edge = await page.locator('.VerticalResizer--dragger').first().boundingBox();
            await page.mouse.move(edge.x + edge.width / 2, edge.y + 10);
            await page.mouse.down();
            await page.mouse.move(edge.x + WIDER, edge.y + 10, { steps: 5 });
            await page.mouse.up();
            const count = await rows.count();
            for (let index = 0; index < count; index += 1) {
                await open(page, rows.nth(index));
                await page.locator('.detail-row').nth(index).waitFor();
            }
            // What goes on with another says with which.
            await page.locator('.detail-row').last().getByText('References').click();
        },
        // As far down as there is something.
        end: '.span-row, .detail-row'
    },
    dashboard: {
        viewport: { width: 1440, height: 900 },
        async prepare(page, path, data) {
            await page.goto(pathToFileURL(path).href);
            // The page has it.
            await page.evaluate(board => globalThis.draw(board), JSON.parse(readFileSync(data, 'utf8')));
        },
        fullPage: true
    }
};

const [executablePath, path, kind, ...rest] = process.argv.slice(2);
const { viewport, prepare, fullPage, end } = KINDS[kind];
const profile = mkdtempSync(join(tmpdir(), 'trunkline-picture-'));
const browser = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    viewport,
    args: [
        '--no-sandbox',
        '--disable-gpu',
        '--disable-quic',
        '--no-first-run',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync'
    ]
});
try {
    const page = await browser.newPage();
    page.on('pageerror', error => console.error(`the page says: ${error.message}`));
    await prepare(page, ...rest);
    await page.mouse.move(0, 0);
    const bottom = async () => Math.max(...await page.locator(end).evaluateAll(rows => rows.map(row => row.getBoundingClientRect().bottom)));
    const clip = end && { x: 0, y: 0, width: viewport.width, height: Math.ceil(await bottom()) + 2 };
    // The pointer and what was clicked leave marks that fade.
    await page.screenshot({ path, fullPage, clip, animations: 'disabled' });
} finally {
    await browser.close();
    rmSync(profile, { recursive: true, force: true });
}
