// The file of pipelines/pages/scan_view.py, and sections through it as pixels.

const MAGIC = "medsegV1";

// Planes as radiologists hang them: the patient's right on the left side, in sagittal ones the front on the left.
export const PLANES = [
  { axis: 0, name: "Axial", rows: 1, columns: 2, left: "R", top: "A" },
  { axis: 1, name: "Coronal", rows: 0, columns: 2, left: "R", top: "S" },
  { axis: 2, name: "Sagittal", rows: 0, columns: 1, left: "A", top: "S" },
];

export async function unpack(blob) {
  const stream = blob.stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const text = new TextDecoder();
  if (text.decode(buffer.slice(0, MAGIC.length)) !== MAGIC) throw new Error("The picture of this result is damaged.");
  const length = new DataView(buffer).getUint32(MAGIC.length, true),
    start = MAGIC.length + 4;
  const header = JSON.parse(text.decode(buffer.slice(start, start + length)));
  const voxels = header.shape.reduce((a, b) => a * b);
  return {
    ...header,
    grey: new Uint8Array(buffer, start + length, voxels),
    numbers: new Uint8Array(buffer, start + length + voxels, voxels),
  };
}

const strides = (shape) => [shape[1] * shape[2], shape[2], 1];

// Where along each axis most of what was found lies; the middle where nothing was.
export function fullest({ shape, numbers }) {
  const counts = shape.map((length) => new Uint32Array(length)),
    [depth, row] = strides(shape);
  for (let voxel = 0; voxel < numbers.length; voxel++) {
    if (!numbers[voxel]) continue;
    counts[0][Math.floor(voxel / depth)]++;
    counts[1][Math.floor(voxel / row) % shape[1]]++;
    counts[2][voxel % shape[2]]++;
  }
  return counts.map((each) => {
    const most = each.reduce((a, b) => Math.max(a, b), 0);
    return most ? each.indexOf(most) : each.length >> 1;
  });
}

// Two pictures of a plane at `index`, { grey, colour }, and which numbers are in it. `colours`: [r, g, b] by number from
// 1, or null where hidden.
export function section({ shape, grey, numbers }, plane, index, colours) {
  const height = shape[plane.rows],
    width = shape[plane.columns],
    step = strides(shape),
    found = new Set();
  const scan = new ImageData(width, height),
    over = new ImageData(width, height);
  for (let y = 0, out = 0; y < height; y++) {
    let voxel = index * step[plane.axis] + (height - 1 - y) * step[plane.rows] + (width - 1) * step[plane.columns];
    for (let x = 0; x < width; x++, out += 4, voxel -= step[plane.columns]) {
      scan.data[out] = scan.data[out + 1] = scan.data[out + 2] = grey[voxel];
      scan.data[out + 3] = 255;
      const number = numbers[voxel];
      if (!number) continue;
      found.add(number);
      const colour = colours[number - 1];
      if (!colour) continue;
      over.data.set(colour, out);
      over.data[out + 3] = 255;
    }
  }
  return { grey: scan, colour: over, found };
}

export const millimetres = ({ shape, spacing_mm }, axis) => shape[axis] * spacing_mm[axis];
