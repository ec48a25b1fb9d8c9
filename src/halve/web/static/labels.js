// Labels beside dots that do not lie on each other: above, right, left or below, or nowhere.

const LETTER = 6.6; // pixels of a letter at 12 px, about
const LINE = 14;
const SIDES = [[0, -1, "middle"], [1, 0, "start"], [-1, 0, "end"], [0, 1, "middle"]];

/**
 * Marks of Observable Plot for `points` of {left, top, radius, label} in pixels and the {x, y} that they stand for;
 * the first ones have the first choice. What has no room has no label: the table and the pointer tell it.
 */
export function labels(Plot, points, width) {
  const taken = points.map(({ left, top, radius }) => ({ x1: left - radius, x2: left + radius, y1: top - radius, y2: top + radius }));
  const apart = (a, b) => a.x2 < b.x1 || a.x1 > b.x2 || a.y2 < b.y1 || a.y1 > b.y2;
  const free = (box) => box.x1 >= 0 && box.x2 <= width && taken.every((one) => apart(box, one));
  return points.filter((one) => one.label).flatMap((one) => {
    const long = one.label.length * LETTER;
    for (const [right, down, anchor] of SIDES) {
      const away = one.radius + 4;
      const x = one.left + right * away;
      const y = one.top + down * (away + LINE / 2);
      const x1 = anchor === "middle" ? x - long / 2 : anchor === "start" ? x : x - long;
      const box = { x1, x2: x1 + long, y1: y - LINE / 2, y2: y + LINE / 2 };
      if (!free(box)) continue;
      taken.push(box);
      return [Plot.text([one], {
        x: "x", y: "y", text: "label", dx: x - one.left, dy: y - one.top, textAnchor: anchor,
        fill: "var(--ink)", stroke: "var(--surface)", strokeWidth: 3,
      })];
    }
    return [];
  });
}
