// Fingers, mouse and wheel on an element -> dragging, zooming, pointing and choosing.

const CLICK = 5; // CSS pixels that a click may move

/**
 * @param {HTMLElement} element
 * @param {{pan: (right: number, down: number) => void, zoom: (factor: number, left: number, top: number) => void,
 *   point: (left: number, top: number) => void, leave: () => void, choose: (left: number, top: number, touch: boolean) => void}} on
 */
export function gestures(element, on) {
  /** @type {Map<number, [number, number]>} */
  const fingers = new Map();
  let moved = 0;

  const placeOf = (event) => {
    const box = element.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const spread = () => {
    const [[x, y], [u, v]] = [...fingers.values()];
    return { distance: Math.hypot(u - x, v - y), left: (x + u) / 2, top: (y + v) / 2 };
  };

  element.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    if (!fingers.size) moved = 0;
    fingers.set(event.pointerId, placeOf(event));
    element.setPointerCapture(event.pointerId);
  });
  element.addEventListener("pointermove", (event) => {
    const [left, top] = placeOf(event);
    const before = fingers.get(event.pointerId);
    if (!before) return on.point(left, top);
    const was = fingers.size === 2 ? spread() : null;
    fingers.set(event.pointerId, [left, top]);
    moved += Math.hypot(left - before[0], top - before[1]);
    if (was) {
      const is = spread();
      on.pan(is.left - was.left, is.top - was.top);
      on.zoom(is.distance / Math.max(was.distance, 1), is.left, is.top);
    } else if (moved > CLICK) on.pan(left - before[0], top - before[1]);
  });
  const up = (event) => {
    const [left, top] = placeOf(event);
    if (fingers.delete(event.pointerId) && event.type === "pointerup" && moved <= CLICK) on.choose(left, top, event.pointerType === "touch");
  };
  element.addEventListener("pointerup", up);
  element.addEventListener("pointercancel", up);
  element.addEventListener("pointerleave", () => on.leave());
  element.addEventListener("wheel", (event) => {
    event.preventDefault(); // the page itself stays where it is
    const pixels = event.deltaMode ? event.deltaY * 16 : event.deltaY;
    on.zoom(Math.exp(-Math.max(-200, Math.min(pixels, 200)) * 0.004), ...placeOf(event));
  }, { passive: false });
}
