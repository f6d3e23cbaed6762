// Answers each message that names a `sku` with its price: a remembered one, or else the quote service's.

import { getEnvironment } from 'wasi:cli/environment@0.2.12';
import { increment } from 'wasi:keyvalue/atomics@0.2.0-draft';
import { open } from 'wasi:keyvalue/store@0.2.0-draft';

export const handler = { handle };

async function handle(message) {
  const sku = skuOf(message);
  const { price, source } = await lookUp(sku).catch(retryWithoutStore);
  const fields = Object.entries({ sku, price, source }).map(([name, text]) => ({
    name,
    value: new TextEncoder().encode(text),
  }));
  return [{ tag: 'append', val: { stream: 'quotes', fields } }];
}

function skuOf(message) {
  const field = message.fields.find(({ name }) => name === 'sku');
  if (!field) throw { tag: 'reject', val: 'the message has no field `sku`' };
  return new TextDecoder().decode(field.value);
}

async function lookUp(sku) {
  // The bucket with no name is the keys that the manifest's `keyvalue` grants.
  const bucket = open('');
  const key = `price:${sku}`;
  const remembered = bucket.get(key);
  if (remembered) return { price: new TextDecoder().decode(remembered), source: 'memory' };
  const price = await ask(sku);
  bucket.set(key, new TextEncoder().encode(price));
  increment(bucket, 'asked', 1n);
  return { price, source: 'service' };
}

// Asks the service whose address the manifest's `env` gives as QUOTES.
async function ask(sku) {
  const service = Object.fromEntries(getEnvironment()).QUOTES;
  let answer;
  try {
    answer = await fetch(`${service}/${encodeURIComponent(sku)}`);
  } catch (error) {
    throw { tag: 'retry', val: `the quote service cannot be reached: ${error}` };
  }
  if (answer.status === 404) throw { tag: 'reject', val: 'the quote service does not know this `sku`' };
  if (!answer.ok) throw { tag: 'retry', val: `the quote service answered ${answer.status}` };
  return await answer.text();
}

// What is thrown is the handler's answer if it is a failure; the store throws an error with a payload.
function retryWithoutStore(error) {
  if (!error.payload) throw error;
  throw { tag: 'retry', val: `the store failed: ${JSON.stringify(error.payload)}` };
}
