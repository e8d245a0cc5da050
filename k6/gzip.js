// The body of an upload: one gzip member, put together from parts that are compressed already (events.json; bench/events says why
// and makes it). Times and ids stand between them in blocks that are not compressed (RFC 1951, 3.2.4).
import encoding from 'k6/encoding';

const events = JSON.parse(open('./events.json'));
const parts = events.parts.map((p) => ({ ...p, first: bytes(p.first), again: bytes(p.again) }));

function bytes(base64) {
  return new Uint8Array(encoding.b64decode(base64));
}

const header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]; // RFC 1952, 2.3
const trailer = 8;
const blockHeader = 5;

// CRC-32 of every byte.
const table = new Uint32Array(256);
for (let i = 0; i < 256; i++) {
  let c = i;
  for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1;
  table[i] = c;
}

// put writes text, which is ASCII, and returns the CRC-32 that crc becomes.
function put(out, at, text, crc) {
  let c = ~crc;
  for (let i = 0; i < text.length; i++) {
    const b = text.charCodeAt(i);
    out[at + i] = b;
    c = (c >>> 8) ^ table[(c ^ b) & 255];
  }
  return ~c >>> 0;
}

// over is the CRC-32 of what has the CRC-32 crc, followed by what has the CRC-32 next and the shift of its length.
function over(crc, next, shift) {
  for (let i = 0; crc !== 0; i++, crc >>>= 1) {
    if (crc & 1) next ^= shift[i];
  }
  return next >>> 0;
}

// block writes the header of a block that is not compressed.
function block(out, at, length, last) {
  out[at] = last ? 1 : 0;
  out[at + 1] = length & 255;
  out[at + 2] = length >> 8;
  out[at + 3] = ~length & 255;
  out[at + 4] = (~length >> 8) & 255;
}

// gzipped is an array of decisions, all of one time (toISOString's) and one OPA. An id is its beginning, which differs, the same
// middle for all, and its end, which differs: Sobek needs half a microsecond for a byte, so what is the same is not read again.
export function gzipped(begins, middle, ends, time, upload) {
  const count = begins.length;
  const groups = events.parts.length / events.group;
  const start = (upload % groups) * events.group + (Math.floor(upload / groups) % (events.group - count + 1));
  const own = events.opening_bytes + events.id_bytes;
  let size = header.length + count * (blockHeader + own) + blockHeader + 1 + trailer;
  let length = count * own + 1;
  for (let i = 0; i < count; i++) {
    const part = parts[start + i];
    size += (i === 0 ? part.first : part.again).length;
    length += part.bytes;
  }
  const out = new Uint8Array(size);
  out.set(header);
  let at = header.length;
  let crc = 0;
  const openingBytes = events.opening_bytes - 1; // behind the bracket or comma
  const openingStart = at + blockHeader + 1;
  const openingCRC = put(out, openingStart, `{"timestamp":"${time}","decision_id":"`, 0);
  for (let i = 0; i < count; i++) {
    const part = parts[start + i];
    block(out, at, own, false);
    at += blockHeader;
    crc = put(out, at, i === 0 ? '[' : ',', crc);
    at++;
    if (i > 0) out.copyWithin(at, openingStart, openingStart + openingBytes);
    crc = over(crc, openingCRC, events.opening_shift);
    at += openingBytes;
    crc = put(out, at, begins[i], crc);
    at += begins[i].length;
    out.set(middle.bytes, at);
    crc = over(crc, middle.crc, events.middle_shift);
    at += middle.bytes.length;
    crc = put(out, at, ends[i], crc);
    at += ends[i].length;
    const deflated = i === 0 ? part.first : part.again;
    out.set(deflated, at);
    at += deflated.length;
    crc = over(crc, part.crc, part.shift);
  }
  block(out, at, 1, true);
  at += blockHeader;
  crc = put(out, at, ']', crc);
  const last = new DataView(out.buffer, at + 1);
  last.setUint32(0, crc, true);
  last.setUint32(4, length, true);
  return out.buffer;
}

// constant is text that gzipped takes as the middle of ids.
export function constant(text) {
  const bytes = new Uint8Array(text.length);
  return { bytes, crc: put(bytes, 0, text, 0) };
}
