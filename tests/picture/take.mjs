// Takes the picture of a page that shows a trace: node take.mjs BROWSER URL SERVICE FILE
// Waits until the time line is there, opens the first span of SERVICE, and shows where its time went.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const [executablePath, url, service, path] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), 'trunkline-picture-'));
const browser = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    viewport: { width: 1440, height: 516 },
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
    await page.goto(url);
    const row = page.locator('.span-row', { hasText: service }).first();
    await row.waitFor({ timeout: 30_000 });
    // Beside the bar, which would explain itself.
    await row.locator('.span-view').click({ position: { x: 3, y: 3 } });
    await page.locator('.detail-row').waitFor();
    await page.mouse.move(0, 0);
    // The pointer and what was clicked leave marks that fade.
    await page.screenshot({ path, animations: 'disabled' });
} finally {
    await browser.close();
    rmSync(profile, { recursive: true, force: true });
}
