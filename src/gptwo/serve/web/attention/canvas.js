// A canvas in CSS pixels.

/** A context in CSS pixels, on a canvas of that size in which every pixel of the screen is one; on the card's ground. */
export function fitted(canvas, width, height) {
  const ratio = devicePixelRatio;
  const [across, down] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== across || canvas.height !== down) Object.assign(canvas, { width: across, height: down });
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.fillStyle = getComputedStyle(canvas).getPropertyValue("--surface");
  context.fillRect(0, 0, width, height);
  return context;
}
