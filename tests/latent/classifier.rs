//! `latent directions train-classifier`: what it learns of which data, on both backends, and what it refuses.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::OnceLock;

use dcgan_cuda::backend::cuda::driver::kernels::KERNELS;
use dcgan_cuda::data;
use dcgan_cuda::data::labels::{Kind, Label, Labels};
use dcgan_cuda::data::synthetic::FaceAttributes;
use dcgan_cuda::latent::classifier::{Classifier, Description, data_of};
use dcgan_cuda::latent::learning::{balanced_accuracy, bce, cross_entropy, held_out};
use dcgan_cuda::model::StateDict;
use dcgan_cuda::model::arch::Dimensions;
use dcgan_cuda::model::params::TensorFile;
use tempfile::TempDir;

use crate::driver;
use crate::training::{binary, cache, checked, contents, refuses, succeeds, trained};

const COMMAND: [&str; 3] = ["latent", "directions", "train-classifier"];
/// On synthetic faces.
const FACES: [&str; 3] = ["--dataset=synthetic", "--image-size=32", "--quiet"];
/// A few, for a moment.
const FEW: [&str; 7] = [
    "--dataset=synthetic",
    "--image-size=32",
    "--quiet",
    "--synthetic-count=256",
    "--width=4",
    "--steps=4",
    "--batch-size=16",
];

fn learn(args: &[&str], out: &Path) -> Output {
    let mut command = binary();
    command.args(COMMAND).args(args).arg("--out").arg(out);
    checked(command.output().unwrap())
}

/// A tiny classifier, trained for a moment.
fn tiny() -> &'static Path {
    static FILE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, file) = FILE.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("tiny.safetensors");
        succeeds(&learn(&[&FEW[..], &["--seed=3"]].concat(), &file));
        (folder, file)
    });
    file
}

/// In a moment it learns what is plain to see, and keeps a file, a report, and its word: the same seed, the same bytes.
#[test]
fn learns_the_attributes_of_synthetic_faces() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("c.safetensors");
    let more = ["--synthetic-count=1500", "--width=8", "--steps=150"];
    succeeds(&learn(&[FACES, more].concat(), &file));
    let about = Classifier::read(&file).unwrap().about;
    assert_eq!((about.kind, about.width), (Kind::Attributes, 8));
    assert_eq!(
        (about.dataset.as_str(), about.data.as_str()),
        ("synthetic", "drawn")
    );
    for name in [
        "Blond_Hair",
        "Male",
        "Wearing_Hat",
        "Looking_Right",
        "No_Beard",
    ] {
        let index = about.names.iter().position(|n| n == name).unwrap();
        assert!(about.accuracy[index] > 0.8, "{name}: {about:?}");
        assert!(about.is_reliable(index));
    }
    for left_out in ["Goatee", "Wearing_Lipstick", "Blurry"] {
        assert!(!about.names.iter().any(|n| n == left_out), "{left_out}");
    }
    let json = fs::read(file.with_extension("json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["trained_on"], 1350);
    assert_eq!(json["held_out"], 150);
    assert_eq!(json["names"].as_array().unwrap().len(), about.names.len());
    assert_eq!(json["names"][0]["name"], about.names[0].as_str());

    let again = folder.path().join("again.safetensors");
    succeeds(&learn(&[&FEW[..], &["--seed=3"]].concat(), &again));
    assert!(fs::read(tiny()).unwrap() == fs::read(&again).unwrap());
    let other = folder.path().join("other.safetensors");
    succeeds(&learn(&[&FEW[..], &["--seed=4"]].concat(), &other));
    assert!(fs::read(&other).unwrap() != fs::read(&again).unwrap());
}

/// From a run, the same images, and the file goes into its folder; once more replaces it.
#[test]
fn learns_what_a_run_was_trained_on() {
    let folder = TempDir::new().unwrap();
    let run = folder.path().join("run");
    for (path, bytes) in contents(&trained().join("run")) {
        let to = run.join(&path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        match path.extension() {
            Some(_) => fs::write(&to, bytes).unwrap(),
            // Folders, and the link to the newest.
            None => fs::create_dir_all(to.with_extension("")).unwrap_or_default(),
        }
    }
    let latest = run.join("checkpoints/latest");
    let _ = fs::remove_dir(&latest);
    std::os::unix::fs::symlink("step-000001", &latest).unwrap();
    let learn = |args: &[&str]| {
        let mut command = binary();
        command.args(COMMAND).arg("--checkpoint").arg(&run);
        command
            .args(["--quiet", "--width=2", "--batch-size=8"])
            .args(args);
        checked(command.output().unwrap())
    };
    refuses(&learn(&[]), 1, &["32 images", "at least 192"]);
    assert!(!run.join("latent").exists());

    let config = fs::read_to_string(run.join("config.json")).unwrap();
    let more = config.replace("\"synthetic_count\": 32", "\"synthetic_count\": 200");
    assert_ne!(config, more);
    fs::write(run.join("config.json"), more).unwrap();
    let file = run.join("latent/classifier.safetensors");
    for steps in ["--steps=1", "--steps=2"] {
        succeeds(&learn(&[steps]));
        assert!(file.with_extension("json").exists());
    }
    let about = Classifier::read(&file).unwrap().about;
    assert_eq!(
        (about.image_size, about.dataset.as_str()),
        (32, "synthetic")
    );
    refuses(&learn(&["--image-size", "64"]), 2, &["--image-size"]);

    // A file of weights alone says nothing of images.
    let alone = folder.path().join("alone.safetensors");
    fs::copy(
        run.join("checkpoints/step-000001/generator.safetensors"),
        &alone,
    )
    .unwrap();
    let mut command = binary();
    command.args(COMMAND).arg("--checkpoint").arg(&alone);
    refuses(
        &checked(command.output().unwrap()),
        1,
        &["alone.safetensors is of no run", "give --dataset"],
    );
}

/// Attributes and parts as files have them: CelebA's, with its own validation part held out.
#[test]
fn learns_from_celebas_layout_and_holds_its_own_part_out() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("celeba");
    let made = binary()
        .args([
            "dataset",
            "synthesize",
            "--count",
            "500",
            "--size",
            "32",
            "--quiet",
            "--out",
        ])
        .arg(&data)
        .output()
        .unwrap();
    succeeds(&made);
    let file = folder.path().join("c.safetensors");
    let args = [
        "--dataset=celeba",
        "--image-size=32",
        "--quiet",
        "--width=2",
        "--steps=2",
    ];
    let data_arg = format!("--data={}", data.display());
    succeeds(&learn(&[&args[..], &[&data_arg]].concat(), &file));
    let about = Classifier::read(&file).unwrap().about;
    assert_eq!(about.dataset, "celeba");
    assert!(about.names.iter().any(|n| n == "Eyeglasses"));
    assert!(
        !about
            .names
            .iter()
            .any(|n| n == "Looking_Right" || n == "Blurry")
    );
    let json = fs::read(file.with_extension("json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let (on, held) = (
        json["trained_on"].as_u64().unwrap(),
        json["held_out"].as_u64().unwrap(),
    );
    let lists = fs::read_to_string(data.join("list_eval_partition.txt")).unwrap();
    let of = |part: &str| lists.lines().filter(|l| l.ends_with(part)).count() as u64;
    let val = if of(" 1") >= 64 { of(" 1") } else { of(" 2") };
    match val >= 64 {
        true => assert_eq!((on, held), (of(" 0"), val)),
        false => assert_eq!((on + held, held), (of(" 0"), 64)),
    }
}

/// A folder a class: softmax, and the names of the folders. Without them there is nothing to tell.
#[test]
fn learns_the_classes_of_a_folder() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("images");
    for (class, grey) in [("bright", 180_u8), ("dark", 40), ("middle", 110)] {
        fs::create_dir_all(data.join(class)).unwrap();
        for k in 0..80_u32 {
            let image = image::RgbImage::from_fn(32, 32, |x, y| {
                image::Rgb([grey + ((x * (k + 3) + y * 7 + k) % 31) as u8; 3])
            });
            image.save(data.join(format!("{class}/{k}.png"))).unwrap();
        }
    }
    let file = folder.path().join("c.safetensors");
    let args = [
        "--dataset=folder",
        "--image-size=32",
        "--quiet",
        "--width=4",
        "--steps=60",
    ];
    let more = ["--batch-size=32", "--log-every=20"];
    let data_arg = format!("--data={}", data.display());
    succeeds(&learn(&[&args[..], &more, &[&data_arg]].concat(), &file));
    let about = Classifier::read(&file).unwrap().about;
    assert_eq!(about.kind, Kind::Classes);
    assert_eq!(about.names, ["bright", "dark", "middle"]);
    assert!(about.accuracy.iter().all(|&a| a > 0.9), "{about:?}");
    assert_eq!(about.data, data_of(data::Kind::Folder, Some(&data)));

    let one = format!("--data={}", data.join("dark").display());
    let to = folder.path().join("one.safetensors");
    let said = ["neither attributes nor two classes", "use celeba"];
    refuses(&learn(&[&args[..], &[&one]].concat(), &to), 1, &said);
    assert!(!to.exists() && !to.with_extension("json").exists());
}

/// The steps on the CUDA backend, on the emulated driver, are those of the CPU.
#[test]
fn learns_the_same_on_a_gpu() {
    if KERNELS.is_empty() {
        eprintln!("SKIPPED: built without nvcc, run scripts/bootstrap first");
        return;
    }
    let folder = TempDir::new().unwrap();
    let small = [
        "--synthetic-count=200",
        "--width=2",
        "--steps=3",
        "--batch-size=8",
        "--quiet",
    ];
    let small = [&["--dataset=synthetic", "--image-size=32"], &small[..]].concat();
    let cpu = folder.path().join("cpu.safetensors");
    succeeds(&learn(&[&small[..], &["--device=cpu"]].concat(), &cpu));
    let cuda = folder.path().join("cuda.safetensors");
    let mut command = driver::command(env!("CARGO_BIN_EXE_dcgan-cuda"));
    command
        .args(COMMAND)
        .args(&small)
        .args(["--device", "cuda", "--out"]);
    command.arg(&cuda).env("XDG_CACHE_HOME", cache());
    succeeds(&checked(command.output().unwrap()));
    let [cpu, cuda] = [cpu, cuda].map(|path| Classifier::read(&path).unwrap());
    assert_eq!(cpu.about.names, cuda.about.names);
    for (name, want) in &cpu.dict.tensors {
        let got = &cuda.dict.tensors[name].data;
        let square = |v: f32| f64::from(v) * f64::from(v);
        let off: f64 = got.iter().zip(&want.data).map(|(g, w)| square(g - w)).sum();
        let norm: f64 = want.data.iter().map(|&w| square(w)).sum();
        // Adam turns rounding errors of the smallest gradients into steps of up to 1e-3 beside weights of 2e-2.
        assert!(off <= 1e-6 * norm + 1e-9, "{name}: {off:e} of {norm:e}");
    }
}

/// A signal ends it at once, and nothing is left.
#[test]
fn a_signal_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let mut command = binary();
    command.args(COMMAND).args(&FACES[..2]).args([
        "--synthetic-count=256",
        "--width=2",
        "--steps=1000000",
        "--log-every=1",
        "--batch-size=8",
        "--out",
    ]);
    command.arg(folder.path().join("c.safetensors"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("learning "));
    assert!(lines.next().unwrap().unwrap().starts_with("step     1 of "));
    // Read on, or it may wait for us.
    let rest = std::thread::spawn(move || lines.count());
    let sent = interrupt(child.id());
    assert!(sent, "the signal was not sent");
    let done = checked(child.wait_with_output().unwrap());
    rest.join().unwrap();
    assert_eq!(done.status.code(), Some(130));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(said.ends_with("stopped; nothing was written\n"), "{said}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

fn interrupt(id: u32) -> bool {
    let sent = std::process::Command::new("kill")
        .args(["-INT", &id.to_string()])
        .status();
    sent.unwrap().success()
}

#[test]
fn options_that_cannot_be_used_are_refused() {
    let folder = TempDir::new().unwrap();
    let to = folder.path().join("c.safetensors");
    // An option takes one value: those of FEW give way.
    let few = |args: &[&str]| {
        let name = |arg: &str| arg.split('=').next().unwrap_or_default().to_owned();
        let kept = FEW
            .iter()
            .filter(|kept| args.iter().all(|a| name(a) != name(kept)));
        learn(&kept.chain(args).copied().collect::<Vec<_>>(), &to)
    };
    refuses(
        &few(&["--batch-size=300"]),
        1,
        &["256 images", "smaller --batch-size"],
    );
    refuses(
        &few(&["--batch-size=1"]),
        1,
        &["--batch-size 1", "use 2 to"],
    );
    refuses(&few(&["--steps=0"]), 1, &["--steps 0", "use 1 to"]);
    refuses(&few(&["--log-every=0"]), 1, &["--log-every 0"]);
    refuses(&few(&["--lr=0"]), 1, &["--lr 0", "positive"]);
    refuses(&few(&["--split=val"]), 1, &["--split"]);
    refuses(
        &learn(&["--dataset=synthetic", "--image-size=48"], &to),
        1,
        &["48", "32, 64"],
    );
    refuses(
        &learn(&FEW, &folder.path().join("c.bin")),
        1,
        &["c.bin", ".safetensors"],
    );
    refuses(&learn(&["--quiet"], &to), 2, &["--checkpoint"]);
    refuses(
        &learn(&["--checkpoint=/nowhere", "--quiet"], &to),
        1,
        &["there is no checkpoint /nowhere"],
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    fs::write(to.with_extension("json"), "mine").unwrap();
    refuses(&learn(&FEW, &to), 1, &["c.json"]);
    assert_eq!(fs::read(to.with_extension("json")).unwrap(), b"mine");
}

/// Whatever byte of a file is another one, it is refused, or the change makes no difference.
#[test]
fn damaged_files_are_refused() {
    let whole = fs::read(tiny()).unwrap();
    let good = Classifier::read(tiny()).unwrap();
    assert!(good.to_bytes().unwrap() == whole);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("damaged.safetensors");
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let step = (whole.len() - header) / 150;
    let mut refused = 0;
    for at in (0..header)
        .step_by(9)
        .chain((header..whole.len()).step_by(step))
    {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, &bytes).unwrap();
        match Classifier::read(&path) {
            Err(_) => refused += 1,
            Ok(read) => assert_eq!(read, good, "byte {at}"),
        }
    }
    assert!(refused > 150, "{refused}");
    for length in [0, 7, 8, header / 2, header, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(Classifier::read(&path).is_err(), "{length} bytes");
    }
    // Another tensor file.
    let run = trained().join("run/checkpoints/latest/generator.safetensors");
    let error = format!("{:#}", Classifier::read(&run).unwrap_err());
    assert!(
        error.ends_with(
            "is no classifier that can be used; make one with `dcgan-cuda latent directions train-classifier`"
        ),
        "{error}"
    );
}

fn described(dataset: data::Kind, path: Option<&Path>) -> Description {
    Description {
        kind: Kind::Attributes,
        names: vec!["Male".to_owned()],
        image_size: 64,
        channels: 3,
        width: 16,
        accuracy: vec![0.9],
        share: vec![0.5],
        dataset: dataset.to_string(),
        data: data_of(dataset, path),
    }
}

#[test]
fn a_classifier_of_other_images_does_not_fit() {
    let folder = TempDir::new().unwrap();
    let [here, there] = ["here", "there"].map(|name| folder.path().join(name));
    for path in [&here, &there] {
        fs::create_dir(path).unwrap();
    }
    let (folders, faces) = (data::Kind::Folder, data::Kind::Synthetic);
    let about = described(folders, Some(&here));
    let dimensions = |image_size, channels| Dimensions {
        image_size,
        width: 7,
        latent_dim: 9,
        channels,
        condition: dcgan_cuda::model::arch::Condition::None,
        design: dcgan_cuda::model::arch::Design::DCGAN,
    };
    let fits = |of: Option<(data::Kind, Option<&Path>)>| about.check_fits(&dimensions(64, 3), of);
    fits(None).unwrap();
    fits(Some((folders, Some(&here)))).unwrap();
    // Moved away: nobody knows.
    fits(Some((folders, Some(Path::new("/nowhere"))))).unwrap();
    for of in [(folders, Some(there.as_path())), (faces, None)] {
        let error = fits(Some(of)).unwrap_err().to_string();
        assert!(
            error.contains("another data set: it was trained on folder"),
            "{error}"
        );
        assert!(error.contains("train-classifier --checkpoint"), "{error}");
    }
    for (size, channels) in [(32, 3), (64, 1)] {
        let error = about
            .check_fits(&dimensions(size, channels), None)
            .unwrap_err();
        assert!(
            error.to_string().contains("64 px with 3 channels"),
            "{error}"
        );
    }
    // CelebA is CelebA, wherever it lies.
    let about = described(data::Kind::Celeba, Some(&here));
    let of = (data::Kind::Celeba, Some(there.as_path()));
    about.check_fits(&dimensions(64, 3), Some(of)).unwrap();
}

/// Losses and gradients are PyTorch's, where labels are not known too.
#[test]
fn losses_are_pytorchs() {
    let path = "tests/fixtures/latent/losses.safetensors";
    let file = TensorFile::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let all = |name: &str| file.floats[name].data.as_slice();
    let names = 5;
    let values: Vec<i8> = all("labels").iter().map(|&v| v as i8).collect();
    let labels: Vec<_> = values
        .chunks(names)
        .map(|row| Some(Label::Attributes(row)))
        .collect();
    let weights: Vec<[f32; 2]> = all("weights").chunks(2).map(|w| [w[0], w[1]]).collect();
    let close = |got: (f64, Vec<f32>), name: &str| {
        let want = f64::from(all(name)[0]);
        assert!((got.0 - want).abs() < 1e-5 * want, "{name}: {}", got.0);
        for (got, want) in got.1.iter().zip(all(&format!("{name}_gradient"))) {
            assert!(
                (got - want).abs() < 1e-7 + 1e-5 * want.abs(),
                "{name}: {got} {want}"
            );
        }
    };
    close(bce(all("logits"), &labels, &weights), "bce");
    let class = |&c: &f32| (c >= 0.0).then_some(Label::Class(c as usize));
    let labels: Vec<_> = all("classes").iter().map(class).collect();
    close(
        cross_entropy(all("logits"), &labels, names),
        "cross_entropy",
    );
}

#[test]
fn accuracy_is_balanced() {
    // Three of four with it are told, none of the one without it; of the second none is without.
    let logits = [1.0, 1.0, 2.0, -1.0, 0.5, 1.0, -3.0, 1.0, 4.0, 1.0];
    let rows: [[i8; 2]; 5] = [[1, 1], [1, 1], [1, 0], [1, 1], [-1, 1]];
    let labels: Vec<_> = rows.iter().map(|r| Some(Label::Attributes(r))).collect();
    let got = balanced_accuracy(Kind::Attributes, &logits, &labels, 2);
    assert_eq!(got, [0.375, 0.5]);
    let logits = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0];
    let labels = [0, 1, 1].map(|class| Some(Label::Class(class)));
    assert_eq!(
        balanced_accuracy(Kind::Classes, &logits, &labels, 2),
        [0.75, 0.75]
    );
}

#[test]
fn what_says_nothing_is_left_out() {
    let names = ["Beard", "Male", "Never", "No_Beard", "Hat", "Unknown"].map(str::to_owned);
    let row = |i: i32| {
        let sign = |yes: bool| if yes { 1 } else { -1 };
        let beard = sign(i % 3 == 0);
        [
            beard,
            sign(i % 2 == 0),
            sign(i == 7),
            -beard,
            sign(i % 5 == 0),
            0,
        ]
    };
    let values: Vec<i8> = (0..400).flat_map(row).collect();
    let mut labels = Labels::of_attributes(names.to_vec(), values);
    let notes = labels.leave_out_what_says_nothing();
    assert_eq!(labels.names, ["Male", "No_Beard", "Hat"]);
    assert_eq!(labels.get(0), Some(Label::Attributes(&[1, -1, 1])));
    assert!(notes[0].ends_with("Never, Unknown"), "{notes:?}");
    assert!(notes[1].contains("Beard is left out"), "{notes:?}");

    let faces = Labels::of_faces((0..50).map(|i| FaceAttributes::sample(9, i)));
    let right = faces
        .names
        .iter()
        .position(|n| n == "Looking_Right")
        .unwrap();
    for i in 0..50 {
        let turned = FaceAttributes::sample(9, i).yaw > 0.0;
        assert_eq!(faces.get(i as usize).unwrap().of(right) > 0, turned);
    }
    let other = faces
        .clone()
        .in_terms_of(&["Male".to_owned(), "Bald".to_owned()])
        .unwrap();
    assert_eq!(other.names, ["Male", "Bald"]);
    assert!(faces.in_terms_of(&["Nose".to_owned()]).is_err());
    let names = ["a", "b"].map(str::to_owned).to_vec();
    let classes = Labels::of_classes(names, [Some(1), None, Some(0)].into_iter());
    assert_eq!(classes.get(1), None);
    assert_eq!(classes.shares(), [0.5, 0.5]);
    let turned = classes
        .in_terms_of(&["b".to_owned(), "a".to_owned()])
        .unwrap();
    assert_eq!(turned.get(0), Some(Label::Class(0)));
}

#[test]
fn a_tenth_is_held_out() {
    for (n, count) in [(192, 64), (2000, 200), (60_000, 5000)] {
        let indices: Vec<usize> = (0..n).map(|i| 3 * i).collect();
        let (held, rest) = held_out(&indices, 5);
        assert_eq!((held.len(), rest.len()), (count, n - count));
        let mut all = [held.clone(), rest].concat();
        all.sort_unstable();
        assert_eq!(all, indices);
        assert_ne!(held, held_out(&indices, 6).0);
    }
}

/// What the file holds is what the networks take.
#[test]
fn bytes_hold_everything() {
    let about = described(data::Kind::Synthetic, None);
    let dict = StateDict::initial(&about.dimensions().predictor(1), 4);
    let classifier = Classifier { about, dict };
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("c.safetensors");
    fs::write(&path, classifier.to_bytes().unwrap()).unwrap();
    assert_eq!(Classifier::read(&path).unwrap(), classifier);
}
