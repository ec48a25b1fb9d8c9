// Words of an answer that is still being written.

const segmenter = globalThis.Intl?.Segmenter ? new Intl.Segmenter(undefined, { granularity: "word" }) : null;

/** The words of `text` with the blanks after them; without the last one, which may go on, unless it has `ended`. */
export function words(text, ended) {
  const parts = segmenter ? Array.from(segmenter.segment(text), (part) => part.segment) : text.split(/(?<=\s)/);
  const found = [];
  for (const part of parts) {
    if (part.trim() || !found.length) found.push(part);
    else found[found.length - 1] += part;
  }
  return ended ? found : found.slice(0, -1);
}

/** Where `one` and `other` first have different words; null where none are known to differ. `ended`: both are whole. */
export function firstDifference(one, other, ended) {
  const shared = Math.min(one.length, other.length);
  for (let i = 0; i < shared; i += 1) if (one[i].trimEnd() !== other[i].trimEnd()) return i;
  return ended && one.length !== other.length ? shared : null;
}

/** How many of the first `most` of `found` are words, not signs. */
export function count(found, most) {
  return found.slice(0, most).filter((word) => /[\p{L}\p{N}]/u.test(word)).length;
}
