"""Camera files, written as the two cameras' programs write them."""

import numpy as np
import tifffile


def write_ini(path, times, speed="1,000ns", n_frames=None, encoding="utf-8"):
    lines = ["[REC_INFO]", f"RecSpeed={speed}", f"RecFrame={n_frames or len(times)}"]
    for i, time in enumerate(times, 1):
        lines += [f"[IMAGE_INFO_{i}]", f"ImageRelative={time}", "Note=100%"]
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


def write_xml(path, stamps, gamma="0", rate="100000.5", first=-1, day="Thu Jul 18 2024"):
    """`stamps` are texts of Time, or pairs of Date and Time."""
    stamps = [s if isinstance(s, tuple) else (day, s) for s in stamps]
    dates = "".join(f'<Date Frame="{first + i}">{d}</Date>' for i, (d, _) in enumerate(stamps))
    times = "".join(f'<Time Frame="{first + i}">{t}</Time>' for i, (_, t) in enumerate(stamps))
    setup = f"<FrameRateDouble>{rate}</FrameRateDouble><Gamma>{gamma}</Gamma>"
    path.write_text(
        f"<?xml version='1.0'?><chd><CameraSetup>{setup}</CameraSetup>"
        f"<TIMEBLOCK>{dates}{times}</TIMEBLOCK></chd>"
    )
    return path


def stamp(microseconds, flag="E"):
    """14:33:05 and so many microseconds, in the camera's spelling."""
    milli, micro = divmod(microseconds, 1000)
    return f"14:33:05.{int(milli):03d} {micro:06.2f} {flag}".strip()


def write_tifs(folder, numbers, shape=(3, 4), dtype=np.uint16, offset=0, suffix="tif"):
    """Frames whose grey value tells their number."""
    folder.mkdir(exist_ok=True)
    for n in numbers:
        grey = np.full(shape, n + offset).astype(dtype)
        tifffile.imwrite(folder / f"img_{n:06d}.{suffix}", grey)
    return folder
