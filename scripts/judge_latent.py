#!/usr/bin/env python3
"""An independent judge of what `dcgan-cuda latent edit` and `latent arithmetic` did to synthetic faces.

    judge_latent.py train --renders DIR --out judge.pt [--seconds 300]
    judge_latent.py make  --judge judge.pt --checkpoint RUN --edits DIR [--samples 256] [edit's options…]
    judge_latent.py edits --judge judge.pt --edits DIR --out TABLE [--samples 256]
    judge_latent.py yaw   --judge judge.pt --strips DIR
    judge_latent.py images --judge judge.pt --images DIR --with Eyeglasses,No_Beard
    judge_latent.py conditions --judge judge.pt --checkpoint RUN [--samples 512] --out TABLE

`train` fits a small residual network with max-pooling on a folder of `dcgan-cuda dataset synthesize` (its truth is
known; the judge has nothing to do with the classifier that edits follow: other layers, another seed, and it sees
renders only, blurred, noisy and JPEG-compressed so that it holds on a generator's images too).

`make` runs `latent edit` for every counted attribute, and `edits` judges what it made: DIR/<Attribute>/on and
DIR/<Attribute>/off, the folders of `--set Attribute` and `--set Not_Attribute` of the same faces. A face that the judge
sees without the attribute is to have it in `on`, one with it is to have lost it in `off`. Counted are attributes that the
judge tells with a balanced accuracy of at least 95 % on held-out renders. What excludes another by construction does not
count as another: see EXCLUDES. Writes TABLE.json and TABLE.md.

`conditions` has a run of `train --condition attributes=…` make images of conditions drawn as the data has them, and of each
attribute on and off with everything else the same, and judges whether each attribute is there where it was asked for. How
different images of one condition are is said beside how different renders are. A run of other than 64 px needs a judge of
renders of that size: `train --pixels 32`.

Needs PyTorch, NumPy, Pillow and safetensors.
"""

import argparse
import io
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from torch import nn

# Those that the renderer draws and that are no other one's copy: Goatee, Mustache and Sideburns are its beard,
# Wearing_Lipstick is not Male, Young is not gray.
NAMES = [
    "Bald", "Bangs", "Big_Lips", "Big_Nose", "Black_Hair", "Blond_Hair", "Brown_Hair", "Bushy_Eyebrows", "Eyeglasses",
    "Gray_Hair", "Male", "Mouth_Slightly_Open", "Narrow_Eyes", "No_Beard", "Pale_Skin", "Smiling", "Straight_Hair",
    "Wavy_Hair", "Wearing_Hat",
]
COLOURS = {"Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"}
HAIR = COLOURS | {"Bangs", "Straight_Hair", "Wavy_Hair"}
# Asked for the first, the others must or may change by construction: one hair colour at a time, none on the bald, a hat
# hides bangs and is never on the bald, and only men are bald or bearded.
EXCLUDES = {
    **{colour: COLOURS | {"Bald"} for colour in COLOURS},
    "Bald": HAIR | {"Wearing_Hat", "Male"},
    "Bangs": {"Bald", "Wearing_Hat"},
    "Wearing_Hat": {"Bald", "Bangs"},
    "Straight_Hair": {"Wavy_Hair", "Bald"},
    "Wavy_Hair": {"Straight_Hair", "Bald"},
    "Male": {"No_Beard", "Bald"},
    "No_Beard": {"Male"},
}
COUNTED = 0.95
HELD_OUT = 3000


class Residual(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.skip = nn.Conv2d(before, after, 1)

    def forward(self, x):
        y = F.relu(self.norm1(self.first(x)))
        return F.relu(self.norm2(self.second(y)) + self.skip(x))


class Judge(nn.Module):
    """Images [n, 3, 64, 64] in [-1, 1] to a logit a name and the yaw."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 20, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(20), nn.ReLU(),
            Residual(20, 32), nn.MaxPool2d(2), Residual(32, 64), nn.MaxPool2d(2),
            Residual(64, 96), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2),
            nn.Linear(96 * 16, 128), nn.ReLU(), nn.Linear(128, len(NAMES) + 1),
        )

    def forward(self, x):
        return self.body(x)


def tensor(images):
    """u8 [n, h, w, 3] to [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1).contiguous()


SIDE = 64


def load(paths, pixels=SIDE):
    """As the judge sees them, 64x64; by way of so many pixels a side."""

    def one(path):
        image = Image.open(path).convert("RGB")
        if image.size != (pixels, pixels):
            image = image.resize((pixels, pixels), Image.Resampling.BOX)
        return np.asarray(enlarged(image))

    return np.stack([one(path) for path in paths])


def enlarged(image):
    return image if image.size == (SIDE, SIDE) else image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def jpeg(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=int(quality))
    return np.asarray(Image.open(buffer).convert("RGB"))


def read_renders(folder, pixels):
    lines = (folder / "list_attr_celeba.txt").read_text().split("\n")
    columns = [lines[1].split().index(name) for name in NAMES]
    rows = [line.split() for line in lines[2:] if line.strip()]
    attributes = np.array([[row[1 + c] == "1" for c in columns] for row in rows], np.float32)
    yaws = [line.split(",") for line in (folder / "yaw.csv").read_text().split("\n")[1:] if line]
    assert [row[0] for row in rows] == [name for name, _ in yaws]
    images = load([folder / "img_align_celeba" / row[0] for row in rows], pixels)
    return images, np.hstack([attributes, np.array([[float(yaw)] for _, yaw in yaws], np.float32)])


def augment(x, truth, random):
    """Flips (yaw too), blurs, adds noise and a little change of colours."""
    n = len(x)
    flip = torch.rand(n, generator=random) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    truth = truth.clone()
    truth[:, -1] *= 1 - 2 * flip.float()
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = torch.rand(n, 1, 1, 1, generator=random) * (torch.rand(n, 1, 1, 1, generator=random) < 0.6)
    x = x + amount * (blurred - x)
    x = x * (1 + 0.1 * torch.randn(n, 3, 1, 1, generator=random)) + 0.06 * torch.randn(n, 3, 1, 1, generator=random)
    sigma = 0.12 * torch.rand(n, 1, 1, 1, generator=random) ** 2
    return (x + sigma * torch.randn(x.shape, generator=random)).clamp(-1, 1), truth


def accuracy(judge, x, truth):
    judge.eval()
    with torch.no_grad():
        out = torch.cat([judge(part) for part in x.split(500)])
    told, true = out[:, :-1] > 0, truth[:, :-1] > 0.5
    result = {}
    for i, name in enumerate(NAMES):
        right = told[:, i] == true[:, i]
        with_it = right[true[:, i]].float().mean().item()
        without = right[~true[:, i]].float().mean().item()
        result[name] = {"accuracy": right.float().mean().item(), "balanced": (with_it + without) / 2}
    yaw = torch.corrcoef(torch.stack([out[:, -1], truth[:, -1]]))[0, 1].item()
    error = (out[:, -1] - truth[:, -1]).abs().mean().item()
    return {"attributes": result, "yaw_r": yaw, "yaw_mean_error": error}


def train(args):
    torch.manual_seed(args.seed)
    random = torch.Generator().manual_seed(args.seed)
    images, truth = read_renders(args.renders, args.pixels)
    truth = torch.from_numpy(truth)
    held, held_truth = tensor(images[:HELD_OUT]), truth[:HELD_OUT]
    images, truth = images[HELD_OUT:], truth[HELD_OUT:]
    share = truth[:, :-1].mean(0)
    # Those that are rare weigh as much as those that are not: balanced accuracy is what counts.
    weight = ((1 - share) / share).clamp(0.25, 4)
    qualities = np.random.default_rng(args.seed)
    half = qualities.permutation(len(images))[: len(images) // 2]
    for index in half:
        images[index] = jpeg(images[index], qualities.integers(50, 96))
    judge = Judge().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(judge.parameters(), 1e-3, weight_decay=0.02)
    began, batch, epoch = time.time(), 64, 0
    passed = lambda: (time.time() - began) / args.seconds
    while passed() < 1:
        judge.train()
        total = 0.0
        for index in torch.randperm(len(images), generator=random).split(batch):
            if passed() >= 1:
                break
            for group in optimiser.param_groups:
                group["lr"] = 2.5e-3 * max(0.5 * (1 + np.cos(np.pi * passed())), 0.005) * min(1, passed() * 20 + 0.1)
            x, t = augment(tensor(images[index.numpy()]), truth[index], random)
            out = judge(x.contiguous(memory_format=torch.channels_last))
            loss = F.binary_cross_entropy_with_logits(out[:, :-1], t[:, :-1], pos_weight=weight)
            loss = loss + 2 * F.mse_loss(out[:, -1], t[:, -1])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(index) / len(images)
        epoch += 1
        print(f"epoch {epoch}: loss {total:.4f}, {100 * passed():.0f} % of the time", flush=True)
    about = accuracy(judge, held, held_truth)
    about |= {"seed": args.seed, "renders": len(images), "epochs": epoch, "held_out": HELD_OUT, "pixels": args.pixels}
    torch.save({"weights": judge.state_dict(), "about": about}, args.out)
    for name, told in about["attributes"].items():
        counted = "counted" if told["balanced"] >= COUNTED else ""
        print(f"{name:20} {100 * told['accuracy']:5.1f} %  balanced {100 * told['balanced']:5.1f} %  {counted}")
    print(f"yaw: r {about['yaw_r']:.4f}, mean error {about['yaw_mean_error']:.3f}")


def read_judge(path):
    saved = torch.load(path)
    judge = Judge()
    judge.load_state_dict(saved["weights"])
    judge.eval()
    return judge, saved["about"]


def judged(judge, folder, pattern="*.png"):
    """What the judge says of the images of a folder, in the order of their names: [n, names + 1]."""
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise SystemExit(f"no {pattern} in {folder}")
    with torch.no_grad():
        return torch.cat([judge(tensor(load(paths[i : i + 256]))) for i in range(0, len(paths), 256)]).numpy()


def make(args):
    _, about = read_judge(args.judge)
    for name in [n for n, told in about["attributes"].items() if told["balanced"] >= COUNTED]:
        for asked, folder in [(name, "on"), (f"Not_{name}", "off")]:
            out = args.edits / name / folder
            if out.is_dir():
                continue
            out.parent.mkdir(parents=True, exist_ok=True)
            options = ["--set", asked, "--count", str(args.samples), "--out", out, "--checkpoint", args.checkpoint]
            subprocess.run([args.binary, "latent", "edit", "--quiet", *options, *args.options], check=True)
            print(f"{asked} done", flush=True)


def edits(args):
    judge, about = read_judge(args.judge)
    counted = [n for n, told in about["attributes"].items() if told["balanced"] >= COUNTED]
    rows = {}
    for name in counted:
        folder = args.edits / name
        if not folder.is_dir():
            continue
        index = NAMES.index(name)
        before = judged(judge, folder / "on" / "images", "*_original.png")[: args.samples]
        on = judged(judge, folder / "on" / "images", "*_edited.png")[: args.samples]
        off = judged(judge, folder / "off" / "images", "*_edited.png")[: args.samples]
        had = before[:, index] > 0
        after = np.where(had[:, None], off, on)
        others = [n for n in counted if n != name and n not in EXCLUDES.get(name, set())]
        changes = {n: float(np.mean((before[:, NAMES.index(n)] > 0) != (after[:, NAMES.index(n)] > 0))) for n in others}
        changed = (after[:, index] > 0) != had
        share = lambda values: float(values.mean()) if len(values) else None
        rows[name] = {
            "changed": share(changed), "gained": share(changed[~had]), "lost": share(changed[had]),
            "had": float(had.mean()), "others": float(np.mean(list(changes.values()))), "others_each": changes,
            "yaw_moved": float(np.abs(after[:, -1] - before[:, -1]).mean()),
        }
    mean = lambda key: float(np.mean([row[key] for row in rows.values()]))
    table = {"judge": about, "samples": args.samples, "edits": rows}
    table["mean"] = {"changed": mean("changed"), "others": mean("others")}
    args.out.with_suffix(".json").write_text(json.dumps(table, indent=2) + "\n")
    percent = lambda value: "–" if value is None else f"{100 * value:.1f} %"
    lines = ["| attribute | judge | changed as asked | gained | lost | others changed | most changed |", "|" + " --- |" * 7]
    for name, row in rows.items():
        worst = max(row["others_each"], key=row["others_each"].get)
        lines.append(
            f"| {name} | {percent(about['attributes'][name]['balanced'])} | {percent(row['changed'])} "
            f"| {percent(row['gained'])} | {percent(row['lost'])} | {percent(row['others'])} "
            f"| {worst} {percent(row['others_each'][worst])} |"
        )
    lines.append(f"| mean | | {percent(table['mean']['changed'])} | | | {percent(table['mean']['others'])} | |")
    args.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def yaw(args):
    """Strips images/face-NNN_+S.png: the share of faces whose yaw rises with every step of the strength."""
    judge, _ = read_judge(args.judge)
    by_face = {}
    for path in (args.strips / "images").glob("face-*_[+-]*.png"):
        face, strength = path.stem.rsplit("_", 1)
        by_face.setdefault(face, []).append((float(strength), path))
    values = []
    for face in sorted(by_face):
        paths = [path for _, path in sorted(by_face[face])]
        with torch.no_grad():
            values.append(judge(tensor(load(paths)))[:, -1].numpy())
    values = np.array(values)
    rises = np.diff(values, axis=1)
    print(json.dumps({
        "faces": len(values), "monotone": float((rises > 0).all(1).mean()),
        "monotone_within_0.02": float((rises > -0.02).all(1).mean()),
        "mean_yaw_by_step": [round(float(v), 3) for v in values.mean(0)],
    }))


def images(args):
    """The share of images that have all of --with (Not_X: that lack X)."""
    judge, _ = read_judge(args.judge)
    told = judged(judge, args.images)
    wanted = [(NAMES.index(w.removeprefix("Not_")), not w.startswith("Not_")) for w in getattr(args, "with").split(",")]
    fits = np.stack([(told[:, index] > 0) == there for index, there in wanted])
    print(json.dumps({"images": len(told), "each": [float(f.mean()) for f in fits], "all": float(fits.all(0).mean())}))


def sampled(args, folder, condition):
    """Images u8 [n, h, w, 3] of the run, and y [n, names]."""
    out = folder / "images.safetensors"
    out.unlink(missing_ok=True)
    asked = [f"--condition={condition}"] if condition else []
    command = [args.binary, "sample", "--checkpoint", args.checkpoint, "--count", str(args.samples), "--seed",
               str(args.seed), "--device", "cpu", "--quiet", "--out", out, *asked]
    subprocess.run(command, check=True)
    with safe_open(out, "np") as file:
        images, y = file.get_tensor("images"), file.get_tensor("y")
    return np.round((images.transpose(0, 2, 3, 1) + 1) * 127.5).clip(0, 255).astype(np.uint8), y


def distance(images):
    """Mean root mean square difference of two images, in levels of 255."""
    x = images.reshape(len(images), -1).astype(np.float32)
    half = len(x) // 2
    return float(np.sqrt(((x[:half] - x[half : 2 * half]) ** 2).mean(1)).mean())


def conditions(args):
    judge, about = read_judge(args.judge)
    conditions = next(iter(sorted(args.checkpoint.glob("**/conditions.json"))))
    names = json.loads(conditions.read_text())["names"]
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise SystemExit(f"the judge does not know {', '.join(unknown)}")

    def verdicts(images):
        if images.shape[1] != about.get("pixels", SIDE):
            raise SystemExit(f"images of {images.shape[1]} px, and the judge is one of {about.get('pixels', SIDE)} px")
        x = np.stack([np.asarray(enlarged(Image.fromarray(image))) for image in images])
        with torch.no_grad():
            told = torch.cat([judge(part) for part in tensor(x).split(256)]).numpy()
        return told[:, [NAMES.index(name) for name in names]] > 0

    rows = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        images, y = sampled(args, folder, None)
        drawn = (verdicts(images) == (y > 0)).mean(0)
        fixed = ",".join(name if value > 0 else f"-{name}" for name, value in zip(names, y[0]))
        same, _ = sampled(args, folder, fixed)
        for index, name in enumerate(names):
            on, off = (verdicts(sampled(args, folder, asked)[0])[:, index] for asked in (name, f"-{name}"))
            told = about["attributes"][name]["balanced"]
            rows[name] = {"judge": told, "drawn": float(drawn[index]), "on": float(on.mean()), "off": float(1 - off.mean())}
    paths = sorted((args.renders / "img_align_celeba").iterdir())[: args.samples]
    renders = load(paths, images.shape[1])
    if images.shape[1] != SIDE:
        renders = np.stack([np.asarray(Image.fromarray(r).resize(images.shape[1:3], Image.Resampling.BOX)) for r in renders])
    table = {"judge": about, "samples": args.samples, "attributes": rows, "distance": {
        "condition": fixed, "of one condition": distance(same), "of all": distance(images), "of renders": distance(renders)}}
    args.out.with_suffix(".json").write_text(json.dumps(table, indent=2) + "\n")
    lines = ["| attribute | judge on renders | as drawn | asked for | asked to be absent |", "|" + " --- |" * 5]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(f"{100 * row[k]:.1f} %" for k in ("judge", "drawn", "on", "off")) + " |")
    args.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    print(json.dumps(table["distance"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train")
    command.add_argument("--renders", type=Path, required=True)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--seconds", type=float, default=300)
    command.add_argument("--seed", type=int, default=40961)
    command.add_argument("--pixels", type=int, default=SIDE, help="of the images that are to be judged")
    command.set_defaults(run=train)
    command = commands.add_parser("conditions")
    command.add_argument("--judge", type=Path, required=True)
    command.add_argument("--checkpoint", type=Path, required=True)
    command.add_argument("--renders", type=Path, required=True, help="what diversity is compared with")
    command.add_argument("--samples", type=int, default=512)
    command.add_argument("--seed", type=int, default=9)
    command.add_argument("--binary", type=Path, default=Path("target/release/dcgan-cuda"))
    command.add_argument("--out", type=Path, required=True)
    command.set_defaults(run=conditions)
    for name, run, folder in [("make", make, "--edits"), ("edits", edits, "--edits"), ("yaw", yaw, "--strips"), ("images", images, "--images")]:
        command = commands.add_parser(name)
        command.add_argument("--judge", type=Path, required=True)
        command.add_argument(folder, type=Path, required=True)
        command.set_defaults(run=run)
        if name in ("make", "edits"):
            command.add_argument("--samples", type=int, default=256)
        if name == "make":
            command.add_argument("--checkpoint", type=Path, required=True)
            command.add_argument("--binary", type=Path, default=Path("target/release/dcgan-cuda"))
            command.add_argument("options", nargs="*", help="after --: of latent edit")
        if name == "edits":
            command.add_argument("--out", type=Path, required=True)
        if name == "images":
            command.add_argument("--with", required=True)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
