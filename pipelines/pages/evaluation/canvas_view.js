// Three planes on a plain canvas: where WebGL2 is missing, and what the tests compare pixel by pixel.

// All views have load({ shape, spacing_mm, image }), paint(rgba), show([d, h, w]), tiles() and resize(), and call
// `moved([d, h, w])` where a reader points.
// Planes as radiologists hang them: the patient's right on the left side; in sagittal ones the front on the left.
const PLANES = [
  { axis: 0, name: "axial", rows: 1, columns: 2 },
  { axis: 1, name: "coronal", rows: 0, columns: 2 },
  { axis: 2, name: "sagittal", rows: 0, columns: 1 },
];

function canvasView(host, moved) {
  const canvas = make("canvas", { class: "planes", "aria-label": "Axial, coronal and sagittal plane", role: "img" });
  const context = canvas.getContext("2d"),
    sections = PLANES.map(() => document.createElement("canvas"));
  let volume = null,
    rgba = null,
    at = [0, 0, 0],
    tiles = [];
  host.replaceChildren(canvas);
  const pick = (event) => {
    const box = canvas.getBoundingClientRect(),
      scale = canvas.width / box.width;
    const x = (event.clientX - box.left) * scale,
      y = (event.clientY - box.top) * scale;
    const tile = tiles.find(
      (each) => x >= each.x && x < each.x + each.width && y >= each.y && y < each.y + each.height,
    );
    if (!tile) return;
    const next = [...at],
      { rows: down, columns: across } = tile.plane,
      { shape } = volume;
    next[down] = shape[down] - 1 - Math.floor(((y - tile.y) / tile.height) * shape[down]);
    next[across] = shape[across] - 1 - Math.floor(((x - tile.x) / tile.width) * shape[across]);
    moved(next);
  };
  canvas.addEventListener("pointerdown", pick);
  canvas.addEventListener("pointermove", (event) => event.buttons && pick(event));

  function section(plane, target) {
    const { shape, image } = volume,
      height = shape[plane.rows],
      width = shape[plane.columns];
    const strides = [shape[1] * shape[2], shape[2], 1],
      made = new ImageData(width, height);
    for (let y = 0, out = 0; y < height; y++) {
      for (let x = 0; x < width; x++, out += 4) {
        const voxel =
          at[plane.axis] * strides[plane.axis] +
          (height - 1 - y) * strides[plane.rows] +
          (width - 1 - x) * strides[plane.columns];
        const alpha = rgba ? rgba[4 * voxel + 3] / 255 : 0;
        for (let part = 0; part < 3; part++) {
          made.data[out + part] = image[voxel] * (1 - alpha) + (alpha ? rgba[4 * voxel + part] * alpha : 0);
        }
        made.data[out + 3] = 255;
      }
    }
    Object.assign(target, { width, height });
    target.getContext("2d").putImageData(made, 0, 0);
  }

  function render() {
    if (!volume) return;
    const size = planesSize(volume, host.clientWidth),
      scale = window.devicePixelRatio || 1;
    Object.assign(canvas, { width: Math.round(host.clientWidth * scale), height: Math.round(size.height * scale) });
    host.style.height = canvas.style.height = `${canvas.height / scale}px`; // pixel on pixel
    context.imageSmoothingEnabled = false;
    tiles = size.tiles.map((tile, index) => {
      const [x, y, width, height] = [tile.x, tile.y, tile.width, tile.height].map((each) => Math.round(each * scale));
      section(PLANES[index], sections[index]);
      context.drawImage(sections[index], x, y, width, height);
      hair(PLANES[index], x, y, width, height);
      return { plane: PLANES[index], x, y, width, height };
    });
  }

  function hair(plane, x, y, width, height) {
    const { shape } = volume,
      across = x + ((shape[plane.columns] - 0.5 - at[plane.columns]) / shape[plane.columns]) * width;
    const down = y + ((shape[plane.rows] - 0.5 - at[plane.rows]) / shape[plane.rows]) * height;
    context.fillStyle = "rgb(255 255 255 / 45%)";
    if (view.crosshair) {
      context.fillRect(x, Math.round(down), width, 1);
      context.fillRect(Math.round(across), y, 1, height);
    }
    context.fillStyle = "rgb(200 210 220)";
    context.font = `${12 * (window.devicePixelRatio || 1)}px system-ui, sans-serif`;
    context.fillText(plane.axis === 2 ? "A" : "R", x + 5, y + height / 2);
  }

  return {
    load: (next) => {
      volume = next;
      rgba = null;
      at = next.shape.map((each) => each >> 1);
    },
    paint: (next) => {
      rgba = next;
      render();
    },
    show: (next) => {
      at = next;
      render();
    },
    tiles: () => tiles.map(({ plane, ...box }) => ({ axis: plane.axis, ...box })),
    resize: render,
    canvas,
  };
}

const GAP = 4,
  TALLEST = 480; // pixels

// True to size, in the arrangement that shows them largest: in a row, two beside the axial plane, or two below it.
function planesSize({ shape, spacing_mm: mm }, width) {
  const [depth, height, across] = shape.map((each, axis) => each * mm[axis]),
    most = width < 560 ? 2 * width : TALLEST;
  const arrangements = [
    {
      wide: 2 * across + height,
      tall: Math.max(height, depth),
      gaps: [2, 0],
      at: (a, c, g) => [
        [a[0] + GAP, (a[1] - c[1]) >> 1],
        [a[0] + c[0] + 2 * GAP, (a[1] - g[1]) >> 1],
      ],
    },
    {
      wide: across + Math.max(across, height),
      tall: Math.max(height, 2 * depth),
      gaps: [1, 1],
      at: (a, c) => [
        [a[0] + GAP, 0],
        [a[0] + GAP, c[1] + GAP],
      ],
    },
    {
      wide: across + height,
      tall: height + depth,
      gaps: [1, 1],
      at: (a, c) => [
        [0, a[1] + GAP],
        [c[0] + GAP, a[1] + GAP],
      ],
    },
  ].map((each) => ({
    ...each,
    scale: Math.min((width - each.gaps[0] * GAP) / each.wide, (most - each.gaps[1] * GAP) / each.tall),
  }));
  const best =
      width < 560 ? arrangements[2] : arrangements.reduce((one, other) => (other.scale > one.scale ? other : one)),
    { scale } = best;
  const sizes = [
    [across, height],
    [across, depth],
    [height, depth],
  ].map((size) => size.map((each) => Math.max(1, Math.floor(each * scale))));
  const places = [[0, 0], ...best.at(...sizes)];
  const tiles = sizes.map(([w, h], index) => ({ x: places[index][0], y: places[index][1], width: w, height: h }));
  const highest = Math.min(...tiles.map((each) => each.y)); // below 0 if other planes are taller than the axial one
  tiles.forEach((each) => {
    each.y -= highest;
  });
  const whole = Math.max(...tiles.map((each) => each.x + each.width)),
    left = Math.max(0, Math.floor((width - whole) / 2));
  return {
    scale,
    height: Math.max(...tiles.map((each) => each.y + each.height)),
    tiles: tiles.map((each) => ({ ...each, x: each.x + left })),
  };
}
