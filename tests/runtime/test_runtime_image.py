"""Images are read, resized and prepared bit for bit as Pillow and the Hugging Face processors do it."""

import contextlib
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from runtime.images import png
from runtime.images import resample as resampling
from runtime.images.image import center_crop, prepare, with_channels
from runtime.images.reading import decode_image, read_image
from runtime.images.resample import resize
from targets.errors import InputError

REPO = Path(__file__).parents[2]
PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
SPEC = {
    "kind": "image",
    "channels": 3,
    "size": [8, 8],
    "resize": {"mode": "exact", "size": [8, 8], "resample": "bilinear"},
    "center_crop": None,
    "rescale": 1 / 255,
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
}


def to_pillow(image_HWC):
    return Image.fromarray(image_HWC[:, :, 0] if image_HWC.shape[2] == 1 else image_HWC)


def pixels(seed, *shape):
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, 256, shape, dtype=np.uint8)
    return np.where(generator.random(shape) < 0.2, np.uint8(255), noise)  # extremes make bicubic overshoot


def pillow_orders_passes_alike(height, width, new_height, new_width):
    """Pillow 13 began to do the vertical pass first where the height shrinks by more than twice what the width does."""
    return int(PIL.__version__.split(".")[0]) >= 13 or height - new_height <= max(0, 2 * (width - new_width))


side = st.integers(1, 60)


@settings(max_examples=400, deadline=None)
@given(side, side, side, side, st.sampled_from([1, 3]), st.sampled_from(sorted(PILLOW)), st.integers(0, 2**32))
def test_resize_is_bit_equal_to_pillow(height, width, new_height, new_width, channels, resample, seed):
    if not pillow_orders_passes_alike(height, width, new_height, new_width):
        return
    batch = pixels(seed, 2, height, width, channels)
    resized = resize(batch, (new_height, new_width), resample)
    assert resized.shape == (2, new_height, new_width, channels)
    for image, got in zip(batch, resized, strict=True):
        wanted = np.array(to_pillow(image).resize((new_width, new_height), PILLOW[resample])).reshape(got.shape)
        np.testing.assert_array_equal(got, wanted)


REAL = [((480, 640), (224, 224)), ((375, 500), (256, 341)), ((32, 32), (224, 224)), ((400, 700), (32, 300))]


@pytest.mark.parametrize("pillow", [True, False])
@pytest.mark.parametrize("resample", sorted(PILLOW))
@pytest.mark.parametrize(("before", "after"), REAL)
def test_resize_of_real_sizes_is_bit_equal_to_pillow(monkeypatch, before, after, resample, pillow):
    assert resampling._pillow_agrees()
    monkeypatch.setattr(resampling, "_pillow_agrees", lambda: pillow)
    image = pixels(0, *before, 3)
    wanted = np.array(Image.fromarray(image).resize(after[::-1], PILLOW[resample]))
    if not pillow_orders_passes_alike(*before, *after):
        steps = Image.fromarray(image).resize((before[1], after[0]), PILLOW[resample])
        wanted = np.array(steps.resize(after[::-1], PILLOW[resample]))
    np.testing.assert_array_equal(resize(image[None], after, resample)[0], wanted)
    top, left, height, width = window = (3, 5, after[0] - 7, after[1] - 11)
    part = resize(image[None], after, resample, window)[0]
    np.testing.assert_array_equal(part, wanted[top : top + height, left : left + width])


def test_another_build_of_pillow_that_rounds_otherwise_is_not_used(monkeypatch):
    def blurred(image, size, resample):
        return np.full((*size, image.shape[2]), 128, np.uint8)

    monkeypatch.setattr(resampling, "_by_pillow", blurred)
    resampling._pillow_agrees.cache_clear()
    image = pixels(3, 400, 500, 3)
    try:
        got = resize(image[None], (50, 60), "bilinear")[0]
    finally:
        resampling._pillow_agrees.cache_clear()
    np.testing.assert_array_equal(got, np.array(Image.fromarray(image).resize((60, 50), PILLOW["bilinear"])))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(20, 31, 3), (20, 31, 4), (20, 31, 1), (20, 31)])
def test_a_frame_of_blue_green_red_is_prepared_as_the_same_in_red_green_blue(channels, shape):
    spec = {**SPEC, "channels": channels, "mean": SPEC["mean"][:channels], "std": SPEC["std"][:channels]}
    spec["resize"], spec["center_crop"] = {"mode": "shortest_edge", "size": 10, "resample": "bicubic"}, [8, 8]
    rgb = pixels(2, *shape)
    bgr = rgb if rgb.ndim == 2 or shape[2] == 1 else np.concatenate([rgb[..., 2::-1], rgb[..., 3:]], -1)
    np.testing.assert_array_equal(prepare([bgr], spec, "bgr"), prepare([rgb], spec))


def test_a_batch_larger_than_one_slice_of_memory_gives_the_same_pixels(monkeypatch):
    batch = pixels(1, 7, 20, 20, 3)
    whole = resize(batch, (9, 31), "bicubic")
    monkeypatch.setattr("runtime.images.resample._SLICE", 2000)
    np.testing.assert_array_equal(resize(batch, (9, 31), "bicubic"), whole)


@settings(max_examples=60, deadline=None)
@given(side, side, st.integers(0, 2**32))
def test_rgb_to_grey_and_back_is_pillows(height, width, seed):
    image = pixels(seed, height, width, 3)
    grey = with_channels(image[None], 1)[0]
    np.testing.assert_array_equal(grey[:, :, 0], np.array(Image.fromarray(image).convert("L")))
    np.testing.assert_array_equal(with_channels(grey[None], 3)[0], np.array(to_pillow(grey).convert("RGB")))


def paeth(left, up, corner):
    guess = int(left) + int(up) - int(corner)
    return min((left, up, corner), key=lambda value: abs(guess - int(value)))


def encode_png(samples_HWC, depth, colour, filters, extra=b"", interlaced=0):
    """A PNG written by the letter of the specification, byte by byte, with the filters asked for: the oracle."""
    height, width, channels = samples_HWC.shape
    step = max(1, depth * channels // 8)
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in samples_HWC]
    elif depth == 8:
        rows = [row.astype(np.uint8).tobytes() for row in samples_HWC]
    else:
        bits = ["".join(format(int(value), f"0{depth}b") for value in row[:, 0]) for row in samples_HWC]
        rows = [int(line.ljust(-(-len(line) // 8) * 8, "0"), 2).to_bytes(-(-len(line) // 8), "big") for line in bits]
    out, above = b"", bytes(len(rows[0]))
    for row, kind in zip(rows, filters, strict=True):
        line = bytearray()
        for at, value in enumerate(row):
            left = row[at - step] if at >= step else 0
            corner = above[at - step] if at >= step else 0
            up = above[at]
            line.append((value - [0, left, up, (left + up) // 2, paeth(left, up, corner)][kind]) % 256)
        out += bytes([kind]) + bytes(line)
        above = row

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    packed = zlib.compress(out)
    half = len(packed) // 2
    body = chunk(b"IHDR", header) + chunk(b"tEXt", b"Comment\x00hi") + extra
    return png.SIGNATURE + body + chunk(b"IDAT", packed[:half]) + chunk(b"IDAT", packed[half:]) + chunk(b"IEND", b"")


def palette_chunk(palette):
    body = palette.astype(np.uint8).tobytes()
    return struct.pack(">I", len(body)) + b"PLTE" + body + struct.pack(">I", zlib.crc32(b"PLTE" + body))


FORMS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8)]  # fmt: skip
FORMS += [(4, 8), (4, 16), (6, 8), (6, 16)]  # (colour type, bit depth)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FORMS), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32), st.data())
def test_png_of_every_form_and_filter_is_decoded(form, height, width, seed, data):
    colour, depth = form
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    samples = np.random.default_rng(seed).integers(0, 2**depth, (height, width, channels))
    palette = np.random.default_rng(seed + 1).integers(0, 256, (2**depth if colour == 3 else 1, 3))
    filters = data.draw(st.lists(st.integers(0, 4), min_size=height, max_size=height))
    extra = palette_chunk(palette) if colour == 3 else b""
    encoded = encode_png(samples, depth, colour, filters, extra)
    got = png.decode(encoded, "x.png")
    if colour == 3:
        wanted = palette[samples[:, :, 0]]
    else:
        eight = samples >> 8 if depth == 16 else samples * 255 // (2**depth - 1)
        wanted = eight[:, :, : 1 if colour in (0, 4) else 3]
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, wanted)
    if depth <= 8 and (colour, depth) != (0, 1):
        with Image.open(io.BytesIO(encoded)) as picture:
            other = np.array(picture.convert("L" if colour in (0, 4) else "RGB")).reshape(got.shape)
        np.testing.assert_array_equal(got, other)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA"])
def test_png_files_that_pillow_writes_are_read_as_pillow_reads_them(tmp_path, mode):
    ramp = np.add.outer(np.arange(40) * 3, np.arange(57) * 2)
    picture = Image.fromarray(np.stack([ramp, ramp * 2, 255 - ramp], -1).astype(np.uint8)).convert(mode)
    picture.save(tmp_path / "x.png")
    wanted = np.array(picture.convert("L" if mode in ("L", "1", "LA") else "RGB"))
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), wanted.reshape(40, 57, -1))


def test_an_interlaced_png_is_left_to_pillow_or_refused_without_it():
    pixel = pixels(3, 1, 1, 3)  # the order of a single pixel is the same, interlaced or not
    data = encode_png(pixel, 8, 2, [0], interlaced=1)
    with pytest.raises(InputError, match=r"interlaced PNG; install pillow"):
        png.decode(data, "x.png")
    np.testing.assert_array_equal(decode_image(data, "x.png"), pixel)


GOOD = encode_png(pixels(3, 6, 5, 3), 8, 2, [0, 1, 2, 3, 4, 0])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_flipped_byte_of_a_png_goes_unnoticed(at, flip):
    broken = bytearray(GOOD)
    broken[at] ^= flip
    with pytest.raises(InputError):
        png.decode(bytes(broken), "x.png")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(GOOD) - 1))
def test_no_cut_png_goes_unnoticed(length):
    with pytest.raises(InputError):
        png.decode(GOOD[:length], "x.png")


def test_a_png_that_unpacks_to_more_than_it_announces_takes_no_more_memory_than_announced():
    bomb = encode_png(np.zeros((1, 1, 1)), 8, 0, [0])
    packed = zlib.compress(bytes(50_000_000))
    body = struct.pack(">I", len(packed)) + b"IDAT" + packed + struct.pack(">I", zlib.crc32(b"IDAT" + packed))
    start = bomb.index(b"IDAT") - 4
    assert png.decode(bomb[:start] + body + bomb[bomb.rindex(b"IEND") - 4 :], "x.png").shape == (1, 1, 1)
    huge = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    with pytest.raises(InputError, match="scale it down"):
        png._header(huge, "x.png")


def test_npy_arrays_are_read_and_others_refused(tmp_path):
    image = pixels(4, 5, 6, 3)
    np.save(tmp_path / "x.npy", image)
    np.testing.assert_array_equal(read_image(tmp_path / "x.npy"), image)
    np.save(tmp_path / "g.npy", image[:, :, 0])
    assert read_image(tmp_path / "g.npy").shape == (5, 6, 1)
    for bad in (
        image.astype(np.float32),
        np.zeros((2, 3, 5), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4), np.uint8),
    ):
        np.save(tmp_path / "bad.npy", bad)
        with pytest.raises(InputError, match=r"bad.npy"):
            read_image(tmp_path / "bad.npy")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError):
        read_image(tmp_path / "pickled.npy")
    whole = (tmp_path / "x.npy").read_bytes()
    for at in range(128):  # a damaged header is never more than a refusal
        (tmp_path / "flip.npy").write_bytes(whole[:at] + bytes([whole[at] ^ 9]) + whole[at + 1 :])
        with contextlib.suppress(InputError):
            assert read_image(tmp_path / "flip.npy").dtype == np.uint8
    (tmp_path / "cut.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-4])
    with pytest.raises(InputError):
        read_image(tmp_path / "cut.npy")


def test_jpeg_is_read_through_pillow_upright(tmp_path):
    image = pixels(5, 10, 20, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(image).save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg").shape == (20, 10, 3)
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:200])
    with pytest.raises(InputError, match=r"broken.jpg"):
        read_image(tmp_path / "broken.jpg")


def test_a_jpeg_without_pillow_is_the_environments_lack(tmp_path):
    Image.fromarray(pixels(5, 10, 20, 3)).save(tmp_path / "x.jpg")
    code = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'PIL' else find(name, *a)\n"
        "from runtime.images.reading import read_image; from targets.errors import run_cli\n"
        f"run_cli(lambda: read_image({str(tmp_path / 'x.jpg')!r}) and 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=False)
    assert done.returncode == 3
    assert done.stderr.endswith("pip install pillow to read other images\n") and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["missing.png", "."])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path / name)


def hugging_face(image, resize_to, crop, mean, std, resample):
    """The steps of a Hugging Face image processor, written out with Pillow and float64 numpy."""
    picture = Image.fromarray(image)
    if isinstance(resize_to, int):
        short, long = sorted(picture.size)
        new = (resize_to, int(resize_to * long / short))
        picture = picture.resize(new if picture.width <= picture.height else new[::-1], PILLOW[resample])
    else:
        picture = picture.resize(resize_to[::-1], PILLOW[resample])
    array = np.array(picture)
    if crop:
        top, left = (array.shape[0] - crop[0]) // 2, (array.shape[1] - crop[1]) // 2
        array = array[top : top + crop[0], left : left + crop[1]]
    return ((array / 255.0 - mean) / std).astype(np.float32).transpose(2, 0, 1)


@pytest.mark.parametrize("resample", sorted(PILLOW))
@pytest.mark.parametrize(
    ("section", "resize_to", "crop"),
    [
        ({"resize": {"mode": "exact", "size": [8, 8]}}, (8, 8), None),
        ({"resize": {"mode": "shortest_edge", "size": 12}, "center_crop": [8, 8]}, 12, (8, 8)),
        ({"resize": {"mode": "exact", "size": [12, 10]}, "center_crop": [8, 8]}, (12, 10), (8, 8)),
    ],
)
def test_prepare_does_what_a_hugging_face_processor_does(section, resize_to, crop, resample):
    images = [pixels(seed, *size, 3) for seed, size in enumerate([(20, 31), (31, 20), (8, 8), (16, 16)])]
    section = {**SPEC, **section, "resize": {**section["resize"], "resample": resample}}
    out = prepare(images, section)
    assert out.dtype == np.float32 and out.shape == (4, 3, 8, 8) and out.flags["C_CONTIGUOUS"]
    for image, got in zip(images, out, strict=True):
        wanted = hugging_face(image, resize_to, crop, SPEC["mean"], SPEC["std"], resample)
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7)


def test_a_batch_array_and_a_list_of_its_images_are_prepared_alike():
    batch = pixels(9, 5, 13, 17, 3)
    np.testing.assert_array_equal(prepare(batch, SPEC), prepare(list(batch), SPEC))
    assert prepare([], SPEC).shape == (0, 3, 8, 8)


def test_grey_and_alpha_images_are_brought_to_the_models_channels():
    rgb = pixels(2, 8, 8, 3)
    grey_spec = {**SPEC, "channels": 1, "mean": [0.0], "std": [1.0]}
    luma = np.array(Image.fromarray(rgb).convert("L")) / 255.0
    np.testing.assert_allclose(prepare([rgb], grey_spec)[0, 0], luma, atol=1e-6)
    alpha = np.concatenate([rgb, np.full((8, 8, 1), 7, np.uint8)], -1)
    np.testing.assert_array_equal(prepare([alpha], SPEC), prepare([rgb], SPEC))
    assert prepare([rgb[:, :, 0]], SPEC).shape == (1, 3, 8, 8)


def test_center_crop_frames_an_image_that_is_too_small():
    image = pixels(6, 1, 3, 9, 1)
    cropped = center_crop(image, (6, 4))
    assert cropped.shape == (1, 6, 4, 1)
    np.testing.assert_array_equal(cropped[:, 2:5], image[:, :, 2:6])
    assert not cropped[:, :2].any() and not cropped[:, 5:].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 2}, "preprocessing: key 'channels': given 2, allowed: 1, 3"),
        ({"mean": [0.5]}, "mean and std have 1 and 3 values, allowed: 3"),
        ({"std": [1.0, 0.0, 1.0]}, "std has a zero"),
        ({"mean": [0.0, float("nan"), 0.0]}, "mean and std hold NaN"),
        ({"rescale": float("inf")}, "rescale, mean and std hold NaN or infinity"),
        ({"resize": {"mode": "exact", "size": 8}}, "allowed with mode 'exact': [height, width]"),
        ({"resize": {"mode": "shortest", "size": 8}}, "nearest: 'shortest_edge'"),
        ({"resize": {"mode": "exact", "size": [8, 8], "resample": "lanczos"}}, "nearest, bilinear, bicubic"),
        ({"size": [4, 4]}, "image is 8 x 8 after preprocessing, the model wants 4 x 4"),
        ({"pad": True}, "key 'pad': unknown"),
    ],
)
def test_a_wrong_preprocessing_section_is_refused(change, message):
    with pytest.raises(InputError) as failure:
        prepare([pixels(0, 9, 9, 3)], {**SPEC, **change})
    assert message in str(failure.value)


def test_an_image_of_the_wrong_type_is_refused():
    with pytest.raises(InputError, match="uint8"):
        prepare([np.zeros((8, 8, 3), np.float32)], SPEC)
    with pytest.raises(InputError, match="shape"):
        prepare([np.zeros(8, np.uint8)], SPEC)
