// NiiVue behind the same few functions as the plain canvas; nothing else of ours knows it.

function hasWebGl() {
  const context = document.createElement("canvas").getContext("webgl2");
  context?.getExtension("WEBGL_lose_context")?.loseContext();
  return Boolean(context);
}

function startNiivue() {
  // Its digest is in the page's policy.
  if (!window.niivue) document.head.append(make("script", {}, $("code-of-niivue").textContent));
  return window.niivue;
}

async function niivueView(host, moved) {
  const { Niivue, NVImage } = startNiivue(),
    canvas = make("canvas", { class: "planes" });
  host.replaceChildren(canvas);
  host.style.height = "20rem"; // a canvas without size makes WebGL complain
  const shown = new Niivue({
    isRadiologicalConvention: true,
    sagittalNoseLeft: true,
    isNearestInterpolation: true,
    dragAndDropEnabled: false,
    scrollRequiresFocus: true,
    loadingText: "",
    logLevel: "error",
    crosshairColor: [0.72, 0.76, 0.8, 1],
    crosshairWidthUnit: "mm",
    backColor: [0, 0, 0, 1],
    fontSizeScaling: 0.35,
    clipPlaneHotKey: "",
    cycleClipPlaneHotKey: "",
    viewModeHotKey: "",
    isForceMouseClickToVoxelCenters: true,
    show3Dcrosshair: false,
  });
  await shown.attachToCanvas(canvas, false);
  canvas.setAttribute("aria-label", "Axial, coronal and sagittal plane");
  canvas.setAttribute("role", "img");
  shown.setSliceType(shown.sliceTypeMultiplanar); // arranged below
  let volume = null,
    layer = null,
    told = false,
    hair = 1; // in millimetres
  shown.onLocationChange = ({ vox }) => {
    if (told || !volume) return;
    const next = [vox[2], vox[1], vox[0]].map((each, axis) =>
      Math.min(volume.shape[axis] - 1, Math.max(0, Math.round(each))),
    );
    moved(next);
  };

  // W, H, D towards right, front, head is RAS, and (D, H, W) in order is NIfTI's own order of voxels.
  async function image(array, type, more) {
    const [depth, height, width] = volume.shape,
      [d, h, w] = volume.spacing_mm;
    const affine = [w, 0, 0, 0, 0, h, 0, 0, 0, 0, d, 0, 0, 0, 0, 1];
    const file = NVImage.createNiftiArray([width, height, depth], [w, h, d], affine, type, array);
    return NVImage.loadFromUrl({ url: "case.nii", name: "case.nii", buffer: file.buffer, ...more });
  }

  function resize() {
    if (!volume) return;
    const width = host.clientWidth,
      { height, scale, tiles } = planesSize(volume, width);
    host.style.height = `${height}px`;
    hair = 1.4 / scale;
    shown.resizeListener();
    shown.setCustomLayout(
      tiles.map((each, sliceType) => ({
        sliceType,
        position: [each.x / width, each.y / height, each.width / width, each.height / height],
      })),
    );
  }

  return {
    async load(next) {
      [...shown.volumes].reverse().forEach((each) => shown.removeVolume(each));
      volume = next;
      layer = null;
      resize();
      shown.addVolume(await image(next.image, 2, { colormap: "gray", cal_min: 0, cal_max: 255, trustCalMinMax: true }));
    },
    async paint(rgba) {
      if (layer) layer.img.set(rgba);
      else shown.addVolume((layer = await image(rgba, 2304, {})));
      shown.updateGLVolume();
    },
    show([d, h, w]) {
      told = true; // or it would tell us what we told it
      shown.setCrosshairWidth(view.crosshair ? hair : 0);
      shown.scene.crosshairPos = shown.vox2frac([w, h, d]);
      shown.drawScene();
      told = false;
    },
    tiles: () =>
      shown.screenSlices
        .filter((each) => each.axCorSag < 3)
        .map(({ axCorSag, leftTopWidthHeight: [x, y, width, height] }) => ({ axis: axCorSag, x, y, width, height })),
    resize,
    canvas,
  };
}
