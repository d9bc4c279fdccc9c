// A viewer of 3D Gaussians for a page that loads nothing: one WebGL2 canvas behind a panel for each scene, one camera
// for all of them. The picture is the one that renderers/gaussians.py defines: EWA projection, a low-pass of 0.3 px^2,
// weights clamped at 0.99 and dropped below 1/255, sorted by the depth of the means. Frames as there: the world has y
// up, cameras have x right, y down, z forward.
"use strict";
(() => {
const LOW_PASS = 0.3, NEAR = 0.01, FRUSTUM = 0.3, TEXELS = 4, WIDE = 1024;

// ------------------------------------------------------------------------------------------------- data

const bytesOf = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));

/** Texels of one frame's Gaussians: mean and opacity; covariance xx xy xz yy; yz zz; colour. See scene.py. */
function unpack(frame) {
  const count = frame.count, bytes = bytesOf(frame.data).buffer;
  const turns = new Uint32Array(bytes, 0, count), places = new Uint16Array(bytes, 4 * count, 3 * count);
  const scales = new Uint8Array(bytes, 10 * count, 3 * count), paints = new Uint8Array(bytes, 13 * count, 4 * count);
  const rows = Math.max(1, Math.ceil(count * TEXELS / WIDE)), texels = new Float32Array(rows * WIDE * 4);
  const means = new Float32Array(3 * count), q = [0, 0, 0, 0];
  const [smallest, largest] = frame.log_scales;
  for (let n = 0; n < count; n++) {
    const at = n * TEXELS * 4;
    for (let i = 0; i < 3; i++) {
      means[3 * n + i] = frame.low[i] + (frame.high[i] - frame.low[i]) * places[3 * n + i] / 65535;
      texels[at + i] = means[3 * n + i];
      texels[at + 12 + i] = paints[4 * n + i] / 255;
    }
    texels[at + 3] = paints[4 * n + 3] / 255;
    const left = turns[n] >>> 30;  // the component that follows from the other three
    let rest = 1;
    for (let i = 0, shift = 20; i < 4; i++) {
      if (i === left) continue;
      q[i] = ((turns[n] >>> shift & 1023) / 1023 * 2 - 1) * Math.SQRT1_2;
      rest -= q[i] * q[i];
      shift -= 10;
    }
    q[left] = Math.sqrt(Math.max(0, rest));
    const [w, x, y, z] = q, v = [0, 1, 2].map(i => {
      return Math.exp(2 * (smallest + (largest - smallest) * scales[3 * n + i] / 255));
    });
    const r = [[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
               [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
               [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]];
    const c = (i, j) => r[i][0] * r[j][0] * v[0] + r[i][1] * r[j][1] * v[1] + r[i][2] * r[j][2] * v[2];
    texels.set([c(0, 0), c(0, 1), c(0, 2), c(1, 1), c(1, 2), c(2, 2)], at + 4);
  }
  return {count, means, texels, rows};
}

// ------------------------------------------------------------------------------------------------- drawing

const SPLATS = `#version 300 es
precision highp float; precision highp int; precision highp sampler2D;
uniform sampler2D gaussians; uniform mat3 turn; uniform vec3 eye; uniform vec2 size; uniform float focal;
in uint index;
out vec2 place; flat out vec4 paint; flat out float reach;
vec4 texel(int part) { int at = int(index) * ${TEXELS} + part; return texelFetch(gaussians, ivec2(at % ${WIDE}, at / ${WIDE}), 0); }
void main() {
  vec4 mean = texel(0), first = texel(1), second = texel(2);
  vec3 p = turn * (mean.xyz - eye);
  gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  if (p.z < ${NEAR} || mean.w * 255.0 <= 1.0) return;
  mat3 world = mat3(first.x, first.y, first.z, first.y, first.w, second.x, first.z, second.x, second.y);
  mat3 own = turn * world * transpose(turn);
  vec2 limit = (1.0 + ${FRUSTUM}) * 0.5 * size / focal, slope = clamp(p.xy / p.z, -limit, limit);
  vec3 x = vec3(1.0, 0.0, -slope.x) * focal / p.z, y = vec3(0.0, 1.0, -slope.y) * focal / p.z;
  float xx = dot(x, own * x) + ${LOW_PASS}, yy = dot(y, own * y) + ${LOW_PASS}, xy = dot(x, own * y);
  float middle = 0.5 * (xx + yy), apart = length(vec2(0.5 * (xx - yy), xy));
  float large = middle + apart, small = max((xx * yy - xy * xy) / large, ${LOW_PASS});
  vec2 axis = apart < 1e-6 * middle ? vec2(1.0, 0.0) : normalize(xx > yy ? vec2(large - yy, xy) : vec2(xy, large - xx));
  reach = sqrt(2.0 * log(mean.w * 255.0));  // standard deviations to where it falls below 1/255
  place = vec2(gl_VertexID & 1, gl_VertexID >> 1) * 2.0 - 1.0;
  vec2 away = reach * (place.x * sqrt(large) * axis + place.y * sqrt(small) * vec2(-axis.y, axis.x));
  vec2 pixel = focal * p.xy / p.z + 0.5 * size + away;
  gl_Position = vec4(2.0 * pixel.x / size.x - 1.0, 1.0 - 2.0 * pixel.y / size.y, 0.0, 1.0);
  paint = vec4(texel(3).rgb, mean.w);
}`;
const SPLAT_PIXELS = `#version 300 es
precision highp float;
in vec2 place; flat in vec4 paint; flat in float reach; out vec4 colour;
void main() {
  float alpha = min(0.99, paint.a * exp(-0.5 * reach * reach * dot(place, place)));
  if (alpha < 1.0 / 255.0) discard;
  colour = vec4(paint.rgb * alpha, alpha);
}`;
const SHAPES = `#version 300 es
precision highp float;
uniform mat3 turn; uniform vec3 eye; uniform vec2 size; uniform float focal;
in vec3 point; in vec2 uv; out vec2 on;
void main() {
  vec3 p = turn * (point - eye);
  gl_Position = vec4(2.0 * focal * p.x / size.x, -2.0 * focal * p.y / size.y, 0.0, p.z);
  on = uv;
}`;
const SHAPE_PIXELS = `#version 300 es
precision highp float;
uniform sampler2D picture; uniform vec4 ink; in vec2 on; out vec4 colour;
void main() { colour = ink.a > 0.0 ? ink : vec4(texture(picture, on).rgb, 1.0); }`;

function program(gl, vertex, fragment) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
  return {made, at: name => gl.getUniformLocation(made, name)};
}

/** Indices of the Gaussians from far to near: a counting sort of their depths. */
function sorted(shown, forward, order) {
  const {count, means} = shown, depths = new Float32Array(count), keys = new Uint16Array(count);
  let low = Infinity, high = -Infinity;
  for (let n = 0; n < count; n++) {
    const z = depths[n] = forward[0] * means[3 * n] + forward[1] * means[3 * n + 1] + forward[2] * means[3 * n + 2];
    if (z < low) low = z;
    if (z > high) high = z;
  }
  const starts = new Uint32Array(65537), scale = 65535 / (high - low || 1);
  for (let n = 0; n < count; n++) {
    keys[n] = (high - depths[n]) * scale;
    starts[1 + keys[n]]++;
  }
  for (let key = 0; key < 65536; key++) starts[key + 1] += starts[key];
  for (let n = 0; n < count; n++) order[starts[keys[n]]++] = n;
}

// ------------------------------------------------------------------------------------------------- the page

const {scenes} = JSON.parse(document.getElementById("scenes").textContent);
const find = name => document.getElementById(name);
const canvas = find("canvas"), slider = find("step");
const gl = canvas.getContext("webgl2", {antialias: false, premultipliedAlpha: true, powerPreference: "high-performance"});
if (!gl) {
  find("trouble").hidden = false;
  scenes.forEach((scene, number) => { find(`views-${number}`).src = scene.frames.at(-1).views; });
  return;
}

const splats = program(gl, SPLATS, SPLAT_PIXELS), shapes = program(gl, SHAPES, SHAPE_PIXELS);
const start = scenes[0].cameras[0], radius = Math.hypot(...start.c2w[3]);
// Where the camera is: around `target`, azimuth 0 at +z growing toward +x, in radians.
const camera = {azimuth: 0, elevation: 0, radius, target: [0, 0, 0]};
const last = Math.max(...scenes.map(scene => scene.frames.length)) - 1;
slider.max = last;
slider.value = last;
find("steps").hidden = last === 0;

const panels = scenes.map((scene, number) => {
  const order = gl.createBuffer(), texture = gl.createTexture(), strip = gl.createTexture(), array = gl.createVertexArray();
  gl.bindVertexArray(array);
  gl.bindBuffer(gl.ARRAY_BUFFER, order);
  const index = gl.getAttribLocation(splats.made, "index");
  gl.enableVertexAttribArray(index);
  gl.vertexAttribIPointer(index, 1, gl.UNSIGNED_INT, 0, 0);
  gl.vertexAttribDivisor(index, 1);
  gl.bindVertexArray(null);
  const element = find(`panel-${number}`), picture = find(`views-${number}`);
  return {scene, order, texture, strip, array, element, picture, known: scene.frames.map(() => null), frame: null};
});
const lines = gl.createBuffer(), shape = gl.createVertexArray();
gl.bindVertexArray(shape);
gl.bindBuffer(gl.ARRAY_BUFFER, lines);
for (const [name, width, offset] of [["point", 3, 0], ["uv", 2, 12]]) {
  const at = gl.getAttribLocation(shapes.made, name);
  gl.enableVertexAttribArray(at);
  gl.vertexAttribPointer(at, width, gl.FLOAT, false, 20, offset);
}
gl.bindVertexArray(null);

/** Show the slider's step in every panel. */
function choose() {
  const share = last ? slider.value / last : 1;
  for (const panel of panels) {
    const at = Math.round(share * (panel.scene.frames.length - 1)), frame = panel.scene.frames[at];
    if (panel.frame === frame) continue;
    panel.frame = frame;
    const shown = panel.shown = panel.known[at] ??= unpack(frame);
    panel.sorting = new Uint32Array(shown.count);
    gl.bindTexture(gl.TEXTURE_2D, panel.texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, WIDE, shown.rows, 0, gl.RGBA, gl.FLOAT, shown.texels);
    for (const side of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, side, gl.NEAREST);
    panel.picture.src = frame.views;
    panel.picture.decode().then(() => { if (panel.frame === frame) { paste(panel); ask(); } });
  }
  const {step, sigma} = panels[0].frame;
  find("label").textContent = step === null ? "result" : `estimate of step ${step + 1}, noise level ${sigma.toPrecision(2)}`;
  ask();
}

/** Put a panel's views where the cameras in the scene take them from. */
function paste(panel) {
  gl.bindTexture(gl.TEXTURE_2D, panel.strip);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, panel.picture);
  for (const side of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, side, gl.NEAREST);
  for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
  panel.pasted = true;
}

/** The camera's pose: `turn`, rows right, down, forward, and its centre. */
function pose() {
  const [sa, ca, se, ce] = [Math.sin(camera.azimuth), Math.cos(camera.azimuth), Math.sin(camera.elevation), Math.cos(camera.elevation)];
  const outward = [ce * sa, se, ce * ca], right = [ca, 0, -sa], down = [se * sa, -ce, se * ca];
  const turn = [...right, ...down, ...outward.map(value => -value)];
  return {turn, eye: camera.target.map((value, i) => value + camera.radius * outward[i])};
}

let asked = false;
function ask() {
  if (!asked) { asked = true; requestAnimationFrame(() => { asked = false; draw(); }); }
}

function draw() {
  const whole = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1, {turn, eye} = pose();
  const [width, height] = [whole.width, whole.height].map(side => Math.round(side * ratio));
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  gl.disable(gl.SCISSOR_TEST);
  gl.clearColor(0, 0, 0, 0);
  gl.clear(gl.COLOR_BUFFER_BIT);
  gl.enable(gl.SCISSOR_TEST);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  const columns = [0, 1, 2].flatMap(i => [turn[i], turn[3 + i], turn[6 + i]]);  // WebGL's matrices are columns
  for (const panel of panels) {
    const box = panel.element.getBoundingClientRect();
    const left = Math.round((box.left - whole.left) * ratio), top = Math.round((box.top - whole.top) * ratio);
    const size = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
    gl.viewport(left, height - top - size[1], ...size);
    gl.scissor(left, height - top - size[1], ...size);
    const ground = find("dark").checked ? 0.08 : 1;
    gl.clearColor(ground, ground, ground, 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
    const focal = panel.scene.cameras[0].focal * Math.min(...size);
    const set = used => {
      gl.useProgram(used.made);
      gl.uniformMatrix3fv(used.at("turn"), false, columns);
      gl.uniform3fv(used.at("eye"), eye);
      gl.uniform2fv(used.at("size"), size);
      gl.uniform1f(used.at("focal"), focal);
    };
    const frusta = find("cameras").checked ? visible(panel.scene.cameras, turn, eye) : [];
    set(shapes);
    frusta.filter(one => one.beyond).forEach(one => frustum(panel, one));
    set(splats);
    sorted(panel.shown, turn.slice(6), panel.sorting);
    gl.bindTexture(gl.TEXTURE_2D, panel.texture);
    gl.bindVertexArray(panel.array);
    gl.bindBuffer(gl.ARRAY_BUFFER, panel.order);
    gl.bufferData(gl.ARRAY_BUFFER, panel.sorting, gl.DYNAMIC_DRAW);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, panel.shown.count);
    set(shapes);
    frusta.filter(one => !one.beyond).forEach(one => frustum(panel, one));
  }
}

/** The cameras that do not stand in the eye's way, far to near, and whether they are beyond the object. */
function visible(cameras, turn, eye) {
  const depth = place => [0, 1, 2].reduce((sum, i) => sum + turn[6 + i] * (place[i] - eye[i]), 0);
  return cameras.map((one, number) => ({one, number, depth: depth(one.c2w[3])}))
    .filter(({one}) => Math.hypot(...one.c2w[3].map((value, i) => value - eye[i])) > 0.5)
    .map(found => ({...found, beyond: found.depth > depth([0, 0, 0])}))
    .sort((a, b) => b.depth - a.depth);
}

/** Draw one camera: its picture in its frustum; the input's is coloured. */
function frustum(panel, {one, number}) {
  const length = 0.2 * radius, [right, down, forward, centre] = one.c2w, total = panel.scene.cameras.length;
  const corner = (u, v) => centre.map((value, i) => value + length
    * (forward[i] + (right[i] * (u - 0.5) + down[i] * (v - 0.5) / one.aspect) / one.focal));
  const corners = [[0, 0], [1, 0], [0, 1], [1, 1]].map(([u, v]) => [...corner(u, v), (number + u) / total, v]);
  const [a, b, c, d] = corners, tip = [...centre, 0, 0];
  gl.bindVertexArray(shape);
  gl.bindBuffer(gl.ARRAY_BUFFER, lines);
  const vertices = [a, b, c, d, tip, a, tip, b, tip, c, tip, d, a, b, b, d, d, c, c, a].flat();
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(vertices), gl.DYNAMIC_DRAW);
  gl.bindTexture(gl.TEXTURE_2D, panel.strip);
  if (panel.pasted) {
    gl.uniform4f(shapes.at("ink"), 0, 0, 0, 0);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }
  gl.uniform4f(shapes.at("ink"), ...(number ? [0.45, 0.5, 0.56, 1] : [0.85, 0.35, 0.05, 1]));
  gl.drawArrays(gl.LINES, 4, 16);
}

// ------------------------------------------------------------------------------------------------- hands

const within = (value, low, high) => Math.min(high, Math.max(low, value));

function orbit(dx, dy) {
  camera.azimuth -= 0.01 * dx;
  camera.elevation = within(camera.elevation + 0.01 * dy, -1.55, 1.55);
  ask();
}

function zoom(factor) {
  camera.radius = within(camera.radius * factor, 0.1 * radius, 10 * radius);
  ask();
}

function pan(dx, dy, height) {
  const {turn} = pose(), unit = camera.radius / (start.focal * height);
  camera.target = camera.target.map((value, i) => value - unit * (dx * turn[i] + dy * turn[3 + i]));
  ask();
}

/** Look from where a camera of the scene stands. */
function stand([x, y, z]) {
  const distance = Math.hypot(x, y, z);
  Object.assign(camera, {azimuth: Math.atan2(x, z), elevation: Math.asin(y / distance), radius: distance, target: [0, 0, 0]});
  ask();
}

for (const {element} of panels) {
  const fingers = new Map();
  const centre = () => [...fingers.values()].reduce(([x, y], at) => [x + at[0] / fingers.size, y + at[1] / fingers.size], [0, 0]);
  const spread = () => { const [a, b] = [...fingers.values()]; return b ? Math.hypot(a[0] - b[0], a[1] - b[1]) : 0; };
  element.addEventListener("pointerdown", event => {
    element.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
  });
  element.addEventListener("pointermove", event => {
    if (!fingers.has(event.pointerId)) return;
    const [before, wide] = [centre(), spread()];
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    const [dx, dy] = centre().map((value, i) => value - before[i]), now = spread();
    if (wide && now) zoom(wide / now);
    const panning = fingers.size > 1 || event.shiftKey || event.buttons & 6;
    if (panning) pan(dx, dy, element.clientHeight); else orbit(dx, dy);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    element.addEventListener(name, event => fingers.delete(event.pointerId));
  }
  element.addEventListener("wheel", event => {
    event.preventDefault();
    zoom(Math.exp(0.0012 * event.deltaY));
  }, {passive: false});
  element.addEventListener("contextmenu", event => event.preventDefault());
  element.addEventListener("keydown", event => {
    const moves = {ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, 10], ArrowDown: [0, -10]}[event.key];
    if (moves) orbit(...moves);
    else if ("+-".includes(event.key)) zoom(event.key === "+" ? 0.9 : 1.1);
    else return;
    event.preventDefault();
  });
}

let playing = 0;
function play(on) {
  clearInterval(playing);
  playing = on ? setInterval(() => {
    if (slider.value >= last) { play(false); return; }
    slider.value = +slider.value + 1;
    choose();
  }, 350) : 0;
  find("play").textContent = on ? "pause" : "play";
}
find("play").addEventListener("click", () => {
  if (!playing && +slider.value >= last) { slider.value = 0; choose(); }
  play(!playing);
});
slider.addEventListener("input", () => { play(false); choose(); });
find("dark").addEventListener("change", ask);
find("cameras").addEventListener("change", event => {
  camera.radius = (event.target.checked ? 2.5 : 1) * radius;  // far enough to have them in sight
  ask();
});
find("reset").addEventListener("click", () => { find("cameras").checked = false; stand(start.c2w[3]); });
document.querySelectorAll("button[data-view]").forEach(button => button.addEventListener("click", () => {
  stand(scenes[0].cameras[button.dataset.view].c2w[3]);
}));
new ResizeObserver(ask).observe(canvas);
canvas.addEventListener("webglcontextlost", () => { find("trouble").hidden = false; });

stand(start.c2w[3]);
choose();
window.viewer = {camera, draw, choose, panels};
})();
