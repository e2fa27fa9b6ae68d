// COCO's run-length code: columns first, background first; the masks here are rows first, one byte a pixel.

// Run lengths of a compressed text: five bits a character, lowest first, differences from the fourth number on.
export function lengthsOf(text) {
  const lengths = [];
  for (let at = 0; at < text.length; ) {
    let value = 0;
    let bits = 0;
    let more = true;
    while (more) {
      const five = text.charCodeAt(at++) - 48;
      value |= (five & 31) << (5 * bits++);
      more = (five & 32) !== 0;
      if (!more && five & 16) value |= -1 << (5 * bits);
    }
    lengths.push(lengths.length > 2 ? value + lengths[lengths.length - 2] : value);
  }
  return lengths;
}

// A mask (height x width), from its compressed text; null is an empty one.
export const decode = (text, width, height) => paintLengths(text ? lengthsOf(text) : [], width, height);

// A mask, from its run lengths.
export function paintLengths(lengths, width, height) {
  const mask = new Uint8Array(width * height);
  let place = 0;
  let on = 0;
  for (const length of lengths) {
    if (on) {
      for (let i = place; i < place + length; i++) mask[(i % height) * width + Math.floor(i / height)] = 1;
    }
    place += length;
    on = 1 - on;
  }
  return mask;
}

// Run lengths of a mask.
export function encode(mask, width, height) {
  const lengths = [];
  let length = 0;
  let last = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      const value = mask[y * width + x] ? 1 : 0;
      if (value !== last) {
        lengths.push(length);
        length = 0;
        last = value;
      }
      length++;
    }
  }
  lengths.push(length);
  return lengths;
}
