const ARRAYS = { float64: Float64Array, uint32: Uint32Array, int16: Int16Array, uint8: Uint8Array };
const [ABSENT, CERTIFIED, ABSTAINED, MISCLASSIFIED] = [0, 1, 2, 3];

function bytesOf(name) {
  return Uint8Array.from(atob(section(name).textContent), (character) => character.charCodeAt(0));
}

// Every data set with typed arrays where the packed content only says where they are.
async function unpackImages(datasets) {
  const stream = new Blob([bytesOf("certificates")]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const open = (value) => (value && value.offset !== undefined
    ? new ARRAYS[value.type](buffer, value.offset, value.length) : value);
  const opened = (values) => Object.fromEntries(Object.entries(values).map(([name, value]) => [name, open(value)]));
  return datasets.map((dataset) => {
    const trials = dataset.trials.map(opened).map((trial) => ({ ...trial, largest: trial.radius.reduce((a, b) => Math.max(a, b), 0) }));
    const images = { ...opened(dataset), trials };
    return { ...images, ...agreement(images) };
  });
}

// For each image: by how much the radii of correct predictions differ at equal σ, and whether some or all certify it.
function agreement({ label, trials }) {
  const disagreement = new Float64Array(label.length);
  const certifiers = new Uint8Array(label.length);
  const [some, all] = [1, 2];
  const sigmas = [...new Set(trials.map((trial) => trial.sigma))];
  for (let image = 0; image < label.length; image += 1) {
    let [right, there] = [0, 0];
    for (const sigma of sigmas) {
      let [low, high] = [Infinity, 0];
      for (const trial of trials) {
        if (trial.sigma !== sigma || trial.status[image] === ABSENT) continue;
        const correct = trial.predicted[image] === label[image];
        const radius = correct ? trial.radius[image] : 0;
        [low, high, right, there] = [Math.min(low, radius), Math.max(high, radius), right + correct, there + 1];
      }
      disagreement[image] = Math.max(disagreement[image], high - low === -Infinity ? 0 : high - low);
    }
    certifiers[image] = right === 0 ? 0 : right === there ? all : some;
  }
  return { disagreement, certifiers };
}

// The pictures of a data set: each sheet is decoded when one of its tiles is first wanted.
function pictures(tiles) {
  const sheets = new Map();
  return async function draw(canvas, index) {
    const tile = tiles ? tiles.index.indexOf(index) : -1;
    canvas.hidden = tile < 0;
    canvas.dataset.index = index;
    if (tile < 0) return;
    const name = tiles.sheets[Math.floor(tile / tiles.tiles)];
    if (!sheets.has(name)) sheets.set(name, createImageBitmap(new Blob([bytesOf(name)], { type: "image/webp" })));
    const sheet = await sheets.get(name);
    if (Number(canvas.dataset.index) !== index) return; // another image was chosen meanwhile
    const place = tile % tiles.tiles;
    const [left, top] = [(place % tiles.columns) * tiles.pitch, Math.floor(place / tiles.columns) * tiles.pitch];
    canvas.width = canvas.height = tiles.size;
    canvas.getContext("2d").drawImage(sheet, left, top, tiles.size, tiles.size, 0, 0, tiles.size, tiles.size);
  };
}
