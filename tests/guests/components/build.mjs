// node build.mjs WIT SOURCE TARGET: a component of the world `proxy`, where componentize-js is installed.
import { writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const [witPath, sourcePath, target] = process.argv.slice(2);
const { component } = await componentize({ sourcePath, witPath, worldName: 'proxy' });
await writeFile(target, component);
