// Reads values out under the pointer. The page needs none of this.
for (const svg of document.querySelectorAll("svg[data-x]")) {
  const [x0, x1, left, right] = svg.dataset.x.split(" ").map(Number);
  const [y0, y1, bottom, top] = svg.dataset.y.split(" ").map(Number);
  const lines = [...svg.querySelectorAll("path[data-name]")].map(path => {
    const numbers = (path.getAttribute("d").match(/-?[\d.]+/g) || []).map(Number);
    const points = [];
    for (let i = 0; i + 1 < numbers.length; i += 2) points.push([numbers[i], numbers[i + 1]]);
    return { name: path.dataset.name, points };
  }).filter(line => line.points.length);
  if (!lines.length) continue;
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
  cursor.setAttribute("class", "cursor");
  const tip = document.createElement("div");
  tip.className = "tip";
  const clear = () => { cursor.remove(); tip.remove(); };
  svg.addEventListener("pointerleave", clear);
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect();
    const at = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    if (at < left - 4 || at > right + 4) return clear();
    const near = lines.map(({ name, points }) =>
      ({ name, point: points.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a) }));
    const x = near.reduce((a, b) => Math.abs(b.point[0] - at) < Math.abs(a.point[0] - at) ? b : a).point[0];
    for (const [key, value] of [["x1", x], ["x2", x], ["y1", top], ["y2", bottom]]) cursor.setAttribute(key, value);
    svg.append(cursor);
    const read = (pixel, from, to, low, high) => Number((low + (pixel - from) / (to - from) * (high - low)).toPrecision(4));
    tip.textContent = [read(x, left, right, x0, x1), ...near.map(({ name, point }) =>
      `${name}  ${read(point[1], bottom, top, y0, y1)}`)].join("\n");
    svg.parentNode.append(tip);
    const inside = x / svg.viewBox.baseVal.width * box.width;
    tip.style.left = inside > box.width / 2 ? "auto" : `${inside + 26}px`;
    tip.style.right = inside > box.width / 2 ? `${box.width - inside + 26}px` : "auto";
  });
}
