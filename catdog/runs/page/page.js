"use strict";

// Plain JavaScript for a page opened from disk: no modules and no fetch, which file:// does not
// allow. LiteRT is defined by the script before this one. Text that comes from outside, such as
// the names of files and classes, is set with textContent only.

const ABOUT = JSON.parse(byId("about").textContent); // classes, size (px), limit of novelty
const MAX_BYTES = 64 * 2 ** 20; // the limits of predict.py
const MAX_PIXELS = 89_478_485;
const STRIP = 2 ** 22; // pixels read from a canvas at a time: telephones limit a canvas to 16 million
const TILE = 480; // px, side of the pictures in the grid
const SHOWN = 3; // classes that a card shows; up to MOST after a click
const MOST = 10;
const COLOURS = 6; // see page.css
// From no support to the most, light rising all the way: readable for the colour-blind.
const HEAT = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

// The digits of Python's base64.b85encode, with a comma for <.
const BASE85 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;,=>?@^_`{|}~";

function byId(id) {
  return document.getElementById(id);
}

// --- The network ---------------------------------------------------------------------------------

/** Return the bytes of an element that holds a gzip file in base85, and remove it. */
async function unpack(id) {
  const bytes = fromBase85(byId(id).textContent);
  byId(id).remove();
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Return the bytes of base85: five digits are four bytes; the last group may be shorter. */
function fromBase85(text) {
  const digits = new Uint8Array(128); // by character code
  for (let i = 0; i < 85; i++) digits[BASE85.charCodeAt(i)] = i;
  const groups = Math.ceil(text.length / 5);
  const padded = text.padEnd(5 * groups, "~");
  const words = new DataView(new ArrayBuffer(4 * groups));
  for (let group = 0; group < groups; group++) {
    let word = 0;
    for (let i = 5 * group; i < 5 * group + 5; i++) word = 85 * word + digits[padded.charCodeAt(i)];
    words.setUint32(4 * group, word);
  }
  return new Uint8Array(words.buffer, 0, 4 * groups - (padded.length - text.length));
}

/** Return the compiled network, or throw an Error that says what the browser lacks. */
async function startNetwork() {
  if (typeof WebAssembly !== "object") {
    throw new Error("This browser does not run WebAssembly, which this page needs.");
  }
  if (typeof DecompressionStream !== "function") {
    throw new Error("This browser lacks DecompressionStream, which this page needs: please update it.");
  }
  if (!canReadPixels()) {
    throw new Error("This browser's protection against fingerprinting changes the pixels that a " +
                    "page reads, so that the answers would be wrong. Allow this page to use canvas data.");
  }
  return LiteRT.start(await unpack("runtime"), await unpack("network"));
}

/** Return what the network says of RGB values (size * size * 3): {name: {values, shape}}. */
async function run(network, rgb) {
  const photos = new LiteRT.Tensor(rgb, [1, ABOUT.size, ABOUT.size, 3]);
  let tensors = {};
  try {
    tensors = await network.run({ photos });
    const outputs = {};
    for (const [name, tensor] of Object.entries(tensors)) {
      outputs[name] = {
        values: Float32Array.from(tensor.toTypedArray()),
        shape: Array.from(tensor.type.layout.dimensions),
      };
    }
    return outputs;
  } finally { // WebAssembly's memory has no garbage collector
    photos.delete();
    Object.values(tensors).forEach((tensor) => tensor.delete());
  }
}

/** Return the probabilities of the classes, novelty, and class activation map where there is one. */
async function answer(network, rgb) {
  const outputs = await run(network, rgb);
  const probabilities = Array.from(outputs.probabilities.values);
  const best = probabilities.indexOf(Math.max(...probabilities));
  const novelty = outputs.novelty?.values[0];
  if (!outputs.evidence) return { probabilities, best, novelty };
  const { values, shape: [, height, width, count] } = outputs.evidence;
  return { probabilities, best, novelty, map: { height, width, values: support(values, count, best) } };
}

/** Return how much each region supports class `best`, against the mean of all: at most 1. */
function support(evidence, outputs, best) {
  const values = [];
  for (let i = 0; i < evidence.length; i += outputs) {
    const region = evidence.subarray(i, i + outputs);
    if (outputs === 1) values.push(best === 1 ? region[0] : -region[0]);
    else values.push(region[best] - region.reduce((a, b) => a + b) / outputs);
  }
  const greatest = Math.max(...values, 1e-9);
  return values.map((value) => Math.max(value, 0) / greatest);
}

// --- From a file to pixels -----------------------------------------------------------------------

/** An error whose message is shown beside the photo's name. */
class PhotoError extends Error {}

/** Return the decoded photo, upright, as an ImageBitmap, and whether it is a JPEG. */
async function decode(file) {
  if (file.size > MAX_BYTES) throw new PhotoError(`larger than ${MAX_BYTES / 2 ** 20} MiB`);
  let head;
  try {
    head = new Uint8Array(await file.slice(0, 12).arrayBuffer());
  } catch {
    throw new PhotoError("cannot be read: a folder, or a file that is gone");
  }
  if (!head.length) throw new PhotoError("is empty");
  await checkSize(file, head);
  try {
    // "none": like predict.py, take the pixels as they are, without the colour profile.
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
    return { bitmap, jpeg: head[0] === 0xff && head[1] === 0xd8 };
  } catch {
    throw new PhotoError(unreadable(head));
  }
}

/** Throw a PhotoError if the file is no image, or has too many pixels to be decoded. */
async function checkSize(file, head) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = () => reject(new PhotoError(unreadable(head)));
    });
    const { naturalWidth: width, naturalHeight: height } = image;
    if (width * height > MAX_PIXELS) {
      throw new PhotoError(`${width} × ${height} is more than 89 megapixels`);
    }
  } finally {
    URL.revokeObjectURL(image.src);
  }
}

function unreadable(head) {
  const kind = String.fromCharCode(...head.subarray(4, 12));
  return /^ftyp(hei|hev|mif|msf)/.test(kind)
    ? "HEIC, which only Safari can read: save it as JPEG"
    : "not a photo that this browser can read";
}

/** Return the photo squashed to a square, float32 RGB of 0 to 255, as load_photo does it.
 *
 * A canvas scales in another way, which changes a label now and then; see docs/page.md. Like
 * Pillow's `draft`, `reduce` and `reducing_gap`, this averages whole blocks of pixels first.
 */
function shrink(bitmap, jpeg, size) {
  const least = Math.min(bitmap.width, bitmap.height);
  const draft = [8, 4, 2].find((scale) => jpeg && least >= scale * Math.round(1.5 * size)) ?? 1;
  const third = (side) => Math.max(1, Math.floor(side / (3 * size)));
  let image;
  if (draft > 1) {
    image = read(bitmap, draft);
    const factor = third(Math.min(image.width, image.height));
    image = reduce(image, factor, factor);
  } else {
    image = read(bitmap, third(least));
  }
  const factors = [third(image.width), third(image.height)];
  const box = [image.width / factors[0], image.height / factors[1]];
  image = reduce(image, ...factors);
  const columnsFirst = image.height > size && image.height - size > 2 * (image.width - size);
  for (const vertical of columnsFirst ? [true, false] : [false, true]) {
    image = resample(image, size, box[Number(vertical)], vertical);
  }
  const rgb = new Float32Array(size * size * 3);
  for (let i = 0, j = 0; i < image.data.length; i += 4) {
    for (let c = 0; c < 3; c++) rgb[j++] = image.data[i + c];
  }
  return rgb;
}

/** Read a bitmap on a white ground, in strips, each reduced by a whole factor. */
function read(bitmap, factor) {
  const width = Math.ceil(bitmap.width / factor);
  const height = Math.ceil(bitmap.height / factor);
  const data = new Uint8ClampedArray(width * height * 4);
  const rows = Math.max(1, Math.floor(STRIP / bitmap.width / factor)) * factor;
  const canvas = newCanvas(bitmap.width, Math.min(rows, bitmap.height));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  for (let y = 0; y < bitmap.height; y += rows) {
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, -y);
    const strip = context.getImageData(0, 0, bitmap.width, Math.min(rows, bitmap.height - y));
    data.set(reduce(strip, factor, factor).data, (y / factor) * width * 4);
  }
  return { data, width, height };
}

/** Average blocks of fx times fy pixels; those at the right and lower edge may be smaller. */
function reduce(image, fx, fy) {
  if (fx === 1 && fy === 1) return image;
  const width = Math.ceil(image.width / fx);
  const height = Math.ceil(image.height / fy);
  const data = new Uint8ClampedArray(width * height * 4);
  for (let y = 0, to = 0; y < height; y++) {
    const bottom = Math.min((y + 1) * fy, image.height);
    for (let x = 0; x < width; x++, to += 4) {
      const right = Math.min((x + 1) * fx, image.width);
      let red = 0, green = 0, blue = 0;
      for (let v = y * fy; v < bottom; v++) {
        for (let i = (v * image.width + x * fx) * 4; i < (v * image.width + right) * 4; i += 4) {
          red += image.data[i];
          green += image.data[i + 1];
          blue += image.data[i + 2];
        }
      }
      const count = (bottom - y * fy) * (right - x * fx);
      const half = count >> 1;
      const share = Math.floor(2 ** 24 / count) / 2 ** 24; // 1 / count, as in Pillow
      data[to] = Math.floor((red + half) * share);
      data[to + 1] = Math.floor((green + half) * share);
      data[to + 2] = Math.floor((blue + half) * share);
    }
  }
  return { data, width, height };
}

/** Scale the rows (or columns, if `vertical`) to `size` pixels with Pillow's BILINEAR filter.
 *
 * That is a triangle as wide as the scale, in 22-bit fixed point, rounded to 8 bits. The first
 * `length` pixels, which may end within one, become `size`.
 */
function resample(image, size, length, vertical) {
  const before = vertical ? image.height : image.width;
  if (before === size && length === size) return image;
  const [width, height] = vertical ? [image.width, size] : [size, image.height];
  const across = vertical ? width : height;
  const step = 4 * (vertical ? image.width : 1); // from a pixel to the next, along the axis
  const line = 4 * (vertical ? 1 : image.width); // from a row or column to the next
  const toStep = 4 * (vertical ? width : 1);
  const toLine = 4 * (vertical ? 1 : width);
  const data = new Uint8ClampedArray(width * height * 4);
  const scale = length / size;
  const reach = Math.max(scale, 1);
  for (let k = 0; k < size; k++) {
    const centre = (k + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - reach + 0.5));
    const last = Math.min(before, Math.floor(centre + reach + 0.5));
    const weights = [];
    for (let i = first; i < last; i++) {
      weights.push(Math.max(0, 1 - Math.abs((i - centre + 0.5) / reach)));
    }
    const sum = weights.reduce((a, b) => a + b, 0);
    const whole = Int32Array.from(weights, (weight) => Math.round((weight / sum) * 2 ** 22));
    for (let j = 0; j < across; j++) {
      let red = 2 ** 21, green = 2 ** 21, blue = 2 ** 21;
      let from = first * step + j * line;
      for (let i = 0; i < whole.length; i++, from += step) {
        red += image.data[from] * whole[i];
        green += image.data[from + 1] * whole[i];
        blue += image.data[from + 2] * whole[i];
      }
      const to = k * toStep + j * toLine;
      data[to] = red >> 22;
      data[to + 1] = green >> 22;
      data[to + 2] = blue >> 22;
    }
  }
  return { data, width, height };
}

function newCanvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

/** Return whether a canvas gives back the colours that were drawn on it. */
function canReadPixels() {
  const context = newCanvas(64, 1).getContext("2d", { willReadFrequently: true });
  for (let x = 0; x < 64; x++) {
    context.fillStyle = `rgb(${4 * x}, ${255 - 4 * x}, 99)`;
    context.fillRect(x, 0, 1, 1);
  }
  const { data } = context.getImageData(0, 0, 64, 1);
  return data.every((value, i) => {
    const x = i >> 2;
    return Math.abs(value - [4 * x, 255 - 4 * x, 99, 255][i % 4]) < 4; // some browsers add 1 or 2
  });
}

// --- Pictures ------------------------------------------------------------------------------------

/** Return a square picture of a photo as a Blob, and the photo's place on it. */
async function makeTile(bitmap) {
  const scale = TILE / Math.max(bitmap.width, bitmap.height);
  const width = Math.max(1, bitmap.width * scale);
  const height = Math.max(1, bitmap.height * scale);
  const place = [(TILE - width) / 2, (TILE - height) / 2, width, height];
  const canvas = newCanvas(TILE, TILE);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white"; // shows through transparent parts
  context.fillRect(0, 0, TILE, TILE);
  const blurred = newCanvas(8, 8); // fills the margins
  blurred.getContext("2d").drawImage(bitmap, 0, 0, 8, 8);
  context.drawImage(blurred, 0, 0, TILE, TILE);
  context.fillStyle = "rgb(0 0 0 / 30%)";
  context.fillRect(0, 0, TILE, TILE);
  context.fillStyle = "white";
  context.fillRect(...place);
  context.drawImage(bitmap, ...place);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.85));
  if (!blob) throw new PhotoError("needs more memory than there is");
  return { blob, place };
}

/** Draw a class activation map in colours of fire over the photo's place on its tile. */
function drawMap(canvas, map, place) {
  const small = newCanvas(map.width, map.height);
  const pixels = new ImageData(map.width, map.height);
  map.values.forEach((value, i) => pixels.data.set([...heat(0.35 + 0.5 * value), 190 * value], 4 * i));
  small.getContext("2d").putImageData(pixels, 0, 0);
  canvas.width = canvas.height = TILE / 2;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, ...place.map((length) => length / 2));
}

function heat(value) {
  const place = Math.min(Math.max(value, 0), 1) * (HEAT.length - 1);
  const low = Math.min(Math.floor(place), HEAT.length - 2);
  return HEAT[low].map((colour, c) => colour + (HEAT[low + 1][c] - colour) * (place - low));
}

// --- Cards ---------------------------------------------------------------------------------------

function addCard(file) {
  const card = byId("card").content.cloneNode(true).firstElementChild;
  card.querySelector(".name").textContent = file.name;
  card.querySelector(".photo").setAttribute("aria-label", file.name);
  byId("cards").append(card);
  return card;
}

function fillCard(card, { probabilities, best, novelty, map }, tile) {
  const image = card.querySelector("img");
  image.src = URL.createObjectURL(tile.blob);
  image.hidden = false;
  const order = probabilities.map((_, i) => i).sort((a, b) => probabilities[b] - probabilities[a]);
  const [few, more] = card.querySelectorAll(".rows");
  few.append(...order.slice(0, SHOWN).map((i) => newRow(i, probabilities[i])));
  more.append(...order.slice(SHOWN, MOST).map((i) => newRow(i, probabilities[i])));
  card.querySelector("details").hidden = !more.children.length;
  card.querySelector("summary").textContent = `${more.children.length} more`;
  card.dataset.best = ABOUT.classes[best];
  card.dataset.probability = probabilities[best];
  if (novelty !== undefined) card.dataset.novelty = novelty;
  if (ABOUT.limit && novelty >= ABOUT.limit) {
    card.dataset.unknown = "";
    card.dataset.label = "unknown";
    card.querySelector(".note").textContent = `Novelty ${novelty.toFixed(4)}\nThe network alone:`;
    card.querySelector(".note").hidden = false;
  } else {
    card.dataset.label = ABOUT.classes[best];
    card.dataset.colour = best % COLOURS;
  }
  card.querySelector(".label").textContent = card.dataset.label;
  if (map) {
    const button = card.querySelector(".photo");
    button.disabled = false;
    button.setAttribute("aria-label", `${card.querySelector(".name").textContent}: ` +
                                      `show the regions that support ${ABOUT.classes[best]}`);
    drawMap(card.querySelector("canvas"), map, tile.place);
    showMap(button, byId("maps").getAttribute("aria-pressed") === "true");
  }
}

function newRow(label, probability) {
  const row = byId("row").content.cloneNode(true).firstElementChild;
  row.dataset.colour = label % COLOURS;
  row.querySelector(".class").textContent = ABOUT.classes[label];
  row.querySelector(".fill").style.width = `${100 * probability}%`;
  row.querySelector(".percent").textContent = percent(probability);
  return row;
}

function percent(probability) {
  if (probability > 0.999 && probability < 1) return ">99.9%";
  if (probability < 0.001) return "<0.1%";
  return `${(100 * probability).toFixed(1)}%`;
}

function failCard(card, error) {
  card.classList.add("failed");
  card.dataset.error = error instanceof PhotoError ? error.message : `failed: ${error.message ?? error}`;
  card.querySelector(".photo").remove();
  card.querySelector(".label").textContent = card.dataset.error;
}

function showMap(button, shown) {
  button.setAttribute("aria-pressed", shown);
  button.querySelector("canvas").hidden = !shown;
}

function showSummary() {
  const cards = Array.from(byId("cards").children);
  const counts = new Map();
  let unknown = 0;
  let failed = 0;
  for (const { dataset } of cards) {
    if (dataset.unknown !== undefined) unknown++;
    else if (dataset.label !== undefined) counts.set(dataset.label, (counts.get(dataset.label) ?? 0) + 1);
    if (dataset.error !== undefined) failed++;
  }
  const order = Array.from(counts).sort((a, b) => b[1] - a[1]);
  const parts = order.slice(0, 5).map(([label, count]) => `${count} ${label}`);
  if (order.length > 5) parts.push(`${order.slice(5).reduce((sum, [, count]) => sum + count, 0)} other`);
  if (unknown) parts.push(`${unknown} unknown`);
  if (failed) parts.push(`${failed} not read`);
  if (waiting.length) parts.push(`${waiting.length} waiting`);
  const photos = cards.length === 1 ? "1 photo" : `${cards.length} photos`;
  byId("summary").textContent = parts.length ? `${photos}: ${parts.join(", ")}` : photos;
  byId("results").hidden = !cards.length;
  document.body.classList.toggle("full", cards.length > 0);
}

// --- One photo after another ---------------------------------------------------------------------

const waiting = []; // {file, card}
let working = false;
let network;

function addPhotos(files) {
  if (!network) return;
  const cards = Array.from(files, (file) => {
    const card = addCard(file);
    waiting.push({ file, card });
    return card;
  });
  showSummary();
  if (byId("cards").firstChild !== cards[0]) cards[0]?.scrollIntoView({ block: "nearest" });
  work();
}

async function work() {
  if (working) return;
  working = true;
  while (waiting.length) {
    const { file, card } = waiting.shift();
    try {
      await classify(file, card);
    } catch (error) {
      failCard(card, error);
    }
    showSummary();
    await new Promise((resolve) => setTimeout(resolve)); // lets the browser draw and answer
  }
  working = false;
}

async function classify(file, card) {
  const start = performance.now();
  const { bitmap, jpeg } = await decode(file);
  try {
    const rgb = shrink(bitmap, jpeg, ABOUT.size);
    const shrunk = performance.now();
    const result = await answer(network, rgb);
    card.dataset.milliseconds = `${shrunk - start} ${performance.now() - shrunk}`;
    fillCard(card, result, await makeTile(bitmap));
  } finally {
    bitmap.close();
  }
}

function removeAll() {
  waiting.length = 0;
  for (const image of document.querySelectorAll("#cards img")) URL.revokeObjectURL(image.src);
  byId("cards").replaceChildren();
  showSummary();
  byId("choose").focus();
}

// --- Where photos come from ----------------------------------------------------------------------

function listen() {
  byId("choose").onclick = () => byId("files").click();
  for (const input of [byId("files"), byId("snapshot")]) {
    input.onchange = () => {
      addPhotos(input.files);
      input.value = ""; // so that the same file can be chosen again
    };
  }
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    addPhotos(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => addPhotos(event.clipboardData.files));
  byId("camera").onclick = openCamera;
  byId("take").onclick = takePhoto;
  byId("close").onclick = () => byId("viewfinder").close();
  byId("viewfinder").onclose = closeCamera;
  byId("clear").onclick = removeAll;
  byId("cards").onclick = (event) => {
    const button = event.target.closest(".photo");
    if (button) showMap(button, button.getAttribute("aria-pressed") !== "true");
  };
  byId("maps").onclick = () => {
    const shown = byId("maps").getAttribute("aria-pressed") !== "true";
    byId("maps").setAttribute("aria-pressed", shown);
    for (const button of document.querySelectorAll(".photo:enabled")) showMap(button, shown);
  };
}

async function openCamera() {
  if (!navigator.mediaDevices?.getUserMedia) {
    byId("snapshot").click(); // telephones open their camera for this file input
    return;
  }
  try {
    byId("viewfinder").querySelector("video").srcObject = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: 1280 } },
    });
    byId("viewfinder").showModal();
    byId("problem").hidden = true;
  } catch (error) {
    fail(error.name === "NotAllowedError"
      ? "The browser did not allow this page to use the camera."
      : "No camera was found.");
  }
}

function takePhoto() {
  const video = byId("viewfinder").querySelector("video");
  const canvas = newCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => {
    const time = new Date().toLocaleTimeString();
    if (blob) addPhotos([new File([blob], `camera ${time}`, { type: "image/png" })]);
  });
  byId("viewfinder").close();
}

function closeCamera() {
  const video = byId("viewfinder").querySelector("video");
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
}

function fail(message) {
  byId("problem").textContent = message;
  byId("problem").hidden = false;
}

async function start() {
  byId("problem").hidden = true;
  listen();
  try {
    network = await startNetwork();
  } catch (error) {
    fail(`The network could not be started. ${error.message ?? error}`);
    return;
  }
  const hasMap = network.getOutputDetails().some(({ name }) => name === "evidence");
  byId("maps").hidden = byId("hint").hidden = !hasMap;
  byId("choose").disabled = byId("camera").disabled = false;
  document.body.dataset.ready = performance.now();
}

start();
