// Shapes of images -> rows that fill a width. Pure.

/** @typedef {{from: number, to: number, height: number, widths: number[]}} Line `to` is excluded; CSS pixels */

/**
 * Rows of equal height, from left to right; all but the last fill the width exactly.
 * @param {number[]} shapes width by height of each @param {number} width of a row, in whole CSS pixels
 * @param {{height: number, gap: number, narrowest: number}} look `height`: about that of a row; `narrowest`: of an image
 * @returns {Line[]}
 */
export function justified(shapes, width, { height, gap, narrowest }) {
  const least = narrowest / height;
  const kept = shapes.map((shape) => Math.max(least, Math.min(shape || 1, width / height))); // cropped beyond that
  const lines = [];
  for (let from = 0; from < kept.length; ) {
    let to = from;
    let sum = 0;
    let fit = Infinity;
    while (to < kept.length && fit > height) {
      sum += kept[to];
      to += 1;
      fit = (width - gap * (to - from - 1)) / sum;
    }
    const without = to - from > 1 ? (width - gap * (to - from - 2)) / (sum - kept[to - 1]) : Infinity;
    const squeezed = Math.min(...kept.slice(from, to)) * fit < narrowest;
    if (fit <= height && to - from > 1 && (squeezed || without / height < height / fit)) {
      to -= 1; // one less is nearer to the height that was asked for, or leaves each of them wide enough
      fit = without;
    }
    lines.push(line(kept, from, to, Math.min(fit, to === kept.length ? height : Infinity), fit > height && to === kept.length ? null : width, gap));
    from = to;
  }
  return lines;
}

/** `width`: to be filled to the pixel, or null where the last row stays short. */
function line(shapes, from, to, height, width, gap) {
  const widths = shapes.slice(from, to).map((shape) => Math.floor(shape * height));
  if (width !== null) widths[widths.length - 1] += width - gap * (to - from - 1) - widths.reduce((sum, one) => sum + one, 0);
  return { from, to, height: Math.round(height), widths };
}
