//! Weights as people have them: files and folders, names with prefixes, both networks in one file, running statistics
//! that are missing, other networks, pickles; and numbers that no network has are refused wherever weights come in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::training::*;
use dcgan_cuda::model::Tensor;
use dcgan_cuda::model::arch::{Design, Dimensions, Family, Norm, Role};
use dcgan_cuda::model::foreign;
use dcgan_cuda::model::params::{StateDict, TensorFile};
use dcgan_cuda::train::checkpoint::Checkpoint;
use sha2::{Digest, Sha256};
use tempfile::{TempDir, tempdir};

const DIMENSIONS: Dimensions = Dimensions {
    image_size: 32,
    width: 4,
    latent_dim: 10,
    channels: 3,
    condition: dcgan_cuda::model::arch::Condition::None,
    design: dcgan_cuda::model::arch::Design::DCGAN,
};

/// Both networks as a training has them: running statistics that are not those of a new network.
fn networks() -> (TensorFile, TensorFile) {
    let file = |mut dict: StateDict| {
        for (name, tensor) in &mut dict.tensors {
            if name.ends_with("running_mean") {
                tensor.data.iter_mut().for_each(|v| *v += 0.125);
            }
        }
        let mut file = TensorFile::default();
        dict.add_to("", &mut file);
        file
    };
    (
        file(StateDict::initial(&DIMENSIONS.generator(), 1)),
        file(StateDict::initial(&DIMENSIONS.discriminator(), 1)),
    )
}

/// `file` with other names; `None` leaves a tensor out.
fn renamed(file: &TensorFile, name: impl Fn(&str) -> Option<String>) -> TensorFile {
    let mut new = TensorFile::default();
    for (old, tensor) in &file.floats {
        new.floats
            .extend(name(old).map(|new| (new, tensor.clone())));
    }
    for (old, count) in &file.counts {
        new.counts.extend(name(old).map(|new| (new, *count)));
    }
    new
}

fn with_prefix(file: &TensorFile, prefix: &str) -> TensorFile {
    renamed(file, |name| Some(format!("{prefix}{name}")))
}

fn write(path: &Path, file: &TensorFile) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, file.to_bytes().unwrap()).unwrap();
}

fn sample(checkpoint: &Path, out: &Path, more: &[&str]) -> Output {
    let mut command = binary();
    command
        .args(["sample", "--count", "2", "--checkpoint"])
        .arg(checkpoint);
    checked(command.arg("--out").arg(out).args(more).output().unwrap())
}

/// The images of a generator, and what was said on stderr.
fn images(checkpoint: &Path, more: &[&str]) -> (Vec<f32>, String) {
    let folder = tempdir().unwrap();
    let out = folder.path().join("images.safetensors");
    let output = sample(checkpoint, &out, more);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let images = TensorFile::read(&out).unwrap().floats["images"]
        .data
        .clone();
    (images, stderr(&output))
}

fn refuses_to_sample(checkpoint: &Path, parts: &[&str]) -> String {
    let folder = tempdir().unwrap();
    let output = sample(checkpoint, &folder.path().join("a.png"), &[]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    refuses(&output, 1, parts)
}

fn train_from(from: &Path, out: &Path, more: &[&str]) -> Output {
    let from = from.to_str().unwrap();
    train(
        out,
        &tiny(&[&["--init-from", from, "--steps", "1"], more].concat()),
    )
}

/// The networks in files of their own.
fn folder() -> (TempDir, PathBuf) {
    let root = tempdir().unwrap();
    let (g, d) = networks();
    let folder = root.path().join("weights");
    write(&folder.join("generator.safetensors"), &g);
    write(&folder.join("discriminator.safetensors"), &d);
    (root, folder)
}

#[test]
fn a_file_is_as_good_as_a_folder() {
    let (root, folder) = folder();
    let (want, said) = images(&folder, &[]);
    assert_eq!(said, "");
    let file = root.path().join("netG.safetensors");
    fs::copy(folder.join("generator.safetensors"), &file).unwrap();
    assert_eq!(images(&file, &[]), (want, String::new()));
    // Evaluation takes it too.
    let output = checked(
        binary()
            .args(
                "evaluate --dataset synthetic --synthetic-count 8 --count 2 --checkpoint"
                    .split(' '),
            )
            .arg(&file)
            .output()
            .unwrap(),
    );
    succeeds(&output);

    // A run starts from both, and from one file that has them.
    let out = root.path().join("run");
    let text = [
        "holds a generator and no discriminator",
        "give a folder with",
        "--init-from",
    ];
    refuses(&train_from(&file, &out, &[]), 1, &text);
    let text = [
        "holds a generator and no discriminator",
        "give the folder ",
        "weights,",
    ];
    refuses(
        &train_from(&folder.join("generator.safetensors"), &out, &[]),
        1,
        &text,
    );
    let text = ["holds a discriminator and no generator"];
    refuses(
        &train_from(&folder.join("discriminator.safetensors"), &out, &[]),
        1,
        &text,
    );
    let text = ["holds a discriminator, and a generator is needed"];
    refuses_to_sample(&folder.join("discriminator.safetensors"), &text);
    assert!(!out.exists());
}

#[test]
fn one_file_may_hold_both_networks() {
    let (root, folder) = folder();
    let (want, _) = images(&folder, &[]);
    let (g, d) = networks();
    let mut both = with_prefix(&g, "generator.");
    let d = with_prefix(&d, "discriminator.");
    both.floats.extend(d.floats);
    both.counts.extend(d.counts);
    // As a whole training is saved: the optimiser's moments are no network.
    let moments = Tensor::new(&[10, 16, 4, 4], vec![0.0; 2560]);
    both.floats
        .insert("optimizer.state.0.exp_avg".into(), moments);
    both.counts.insert("epoch".into(), 7);
    let file = root.path().join("both.safetensors");
    write(&file, &both);
    let (got, said) = images(&file, &[]);
    assert_eq!(got, want);
    assert!(
        said.contains("note: ") && said.contains("\"generator.\""),
        "{said}"
    );
    let out = root.path().join("run");
    let output = train_from(&file, &out, &["--quiet"]);
    succeeds(&output);
    // The run began with them: the checkpoint of iteration 0 is gone, but the folder gives the same run.
    let other = root.path().join("other");
    succeeds(&train_from(&folder, &other, &["--quiet"]));
    let state = |run: &Path| fs::read(checkpoint(run, 1).join("generator.safetensors")).unwrap();
    assert!(state(&out) == state(&other));

    // Two of a kind are named.
    let two = with_prefix(&g, "ema.");
    both.floats.extend(two.floats);
    write(&file, &both);
    refuses_to_sample(&file, &["several networks", "ema.main.", "generator.main."]);
}

#[test]
fn an_sndcgan_is_told_from_its_shapes() {
    let dimensions = Dimensions {
        design: Design {
            family: Family::Sndcgan,
            norm: Norm::None,
        },
        ..DIMENSIONS
    };
    let (g, d) = (dimensions.generator(), dimensions.discriminator());
    let mut both = TensorFile::default();
    StateDict::initial(&g, 1).add_to("netG.", &mut both);
    StateDict::initial(&d, 1).add_to("netD.", &mut both);
    let found = foreign::networks(&both.shapes()).unwrap();
    let of = |role: Role| found.iter().find(|network| network.role == role).unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(of(Role::Generator).architecture(), g);
    assert_eq!(of(Role::Discriminator).architecture(), d);
    let root = tempdir().unwrap();
    let file = root.path().join("both.safetensors");
    write(&file, &both);
    let (images, _) = images(&file, &[]);
    assert_eq!(images.len(), 2 * 3 * 32 * 32);
    assert!(images.iter().all(|v| v.is_finite()) && images.iter().any(|&v| v != 0.0));

    // 3×3 where there is none.
    let name = "netG.main.6.weight";
    let shape = both.floats[name].shape.clone();
    let other = Tensor::new(
        &[shape[0], shape[1], 3, 3],
        vec![0.5; shape[0] * shape[1] * 9],
    );
    both.floats.insert(name.into(), other);
    both.floats.retain(|name, _| name.starts_with("netG."));
    write(&file, &both);
    refuses_to_sample(&file, &["main.6.weight has shape", "other dimensions"]);
}

#[test]
fn prefixes_of_wrappers_are_taken_off_and_said() {
    let (root, folder) = folder();
    let (want, _) = images(&folder, &[]);
    let (g, d) = networks();
    let prefixed = root.path().join("prefixed");
    for prefix in [
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "netG.",
        "my.own_2.net.",
    ] {
        let mut file = with_prefix(&g, prefix);
        // Of torch.optim.swa_utils.AveragedModel.
        file.counts.insert("n_averaged".into(), 3);
        write(&prefixed.join("generator.safetensors"), &file);
        write(
            &prefixed.join("discriminator.safetensors"),
            &with_prefix(&d, prefix),
        );
        let (got, said) = images(&prefixed, &[]);
        assert_eq!(got, want, "{prefix}");
        let note = format!("\"{prefix}\" in front of the names is left out");
        assert!(said.contains(&note) && said.lines().count() == 1, "{said}");
        let (_, said) = images(&prefixed, &["--quiet"]);
        assert_eq!(said, "");
    }
    // Both files of a run; --quiet says nothing.
    let out = root.path().join("run");
    let output = train_from(&prefixed, &out, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    // An nn.Sequential under another name, or bare.
    for (prefix, shown) in [
        ("", "the layers 0, 1 …"),
        ("layers.", "layers.0, layers.1"),
        ("module.net.", "module.net.0"),
    ] {
        let file = renamed(&g, |name| Some(name.replacen("main.", prefix, 1)));
        write(&prefixed.join("generator.safetensors"), &file);
        let (got, said) = images(&prefixed, &[]);
        assert_eq!(got, want, "{prefix}");
        assert!(said.contains(shown) && said.contains("main.0"), "{said}");
    }
}

#[test]
fn running_statistics_that_are_missing_are_named_with_the_cure() {
    let (root, _) = folder();
    let (g, d) = networks();
    let stripped = |file: &TensorFile| {
        renamed(file, |name| {
            (!name.contains("running") && !name.contains("batches")).then(|| name.to_string())
        })
    };
    let bare = root.path().join("bare");
    write(&bare.join("generator.safetensors"), &stripped(&g));
    write(&bare.join("discriminator.safetensors"), &stripped(&d));
    let cure = [
        "generator.safetensors",
        "main.1.running_mean is missing",
        "--batch-statistics",
        "generator(torch.randn(64, 10, 1, 1))",
        "GroupNorm",
    ];
    refuses_to_sample(&bare, &cure);
    // The cure works, and gives what the whole file gives.
    let (want, _) = images(&folder().1, &["--batch-statistics"]);
    let (got, said) = images(&bare, &["--batch-statistics"]);
    assert_eq!(got, want);
    assert!(said.contains("no running statistics"), "{said}");
    // Training measures them.
    let out = root.path().join("run");
    let options: Vec<_> = tiny(&["--init-from", bare.to_str().unwrap(), "--steps", "1"]);
    let loud: Vec<_> = options.into_iter().filter(|o| *o != "--quiet").collect();
    let output = train(&out, &loud);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("running statistics are missing"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn what_differs_from_a_dcgan_is_named() {
    let (root, _) = folder();
    let (g, _) = networks();
    let path = root.path().join("other.safetensors");
    let tensor = |shape: &[usize]| Tensor::new(shape, vec![0.5; shape.iter().product()]);
    let with = |names: &[(&str, &[usize])]| {
        let mut file = g.clone();
        for (name, shape) in names {
            file.floats.insert(name.to_string(), tensor(shape));
        }
        file
    };
    // Another layer behind the first batch norm.
    let shifted = renamed(&g, |name| {
        let (layer, rest) = name.strip_prefix("main.")?.split_once('.')?;
        let layer: usize = layer.parse().ok()?;
        Some(format!("main.{}.{rest}", layer + usize::from(layer >= 3)))
    });
    let without = renamed(&g, |name| {
        (!name.starts_with("main.1.")).then(|| name.to_string())
    });
    let spectral = renamed(&g, |name| {
        Some(name.replace("main.0.weight", "main.0.weight_orig"))
    });
    let functional = renamed(&g, |name| {
        Some(name.replace("main.0.", "first.").replace("main.", "conv"))
    });
    for (file, parts) in [
        (
            with(&[("main.0.bias", &[16])]),
            &["have biases (main.0.bias)", "bias=False"][..],
        ),
        (
            spectral,
            &["spectral", "main.0.weight_orig", "remove_spectral_norm"],
        ),
        (
            with(&[("main.20.weight", &[16, 10])]),
            &["linear layer (main.20.weight)"],
        ),
        (
            with(&[("main.3.weight", &[16, 8, 3, 3])]),
            &["main.3 is 3×3", "4×4"],
        ),
        (
            shifted,
            &[
                "main.0, main.4, main.7, main.10",
                "main.0, main.3, main.6, main.9",
                "other layers",
            ],
        ),
        (without, &["main.1 has no weight", "InstanceNorm"]),
        (
            functional,
            &["main.0.weight", "conv1.bias", "not the weights of a DCGAN"],
        ),
        (
            with(&[("main.0.weight", &[10, 17, 4, 4])]),
            &["main.0.weight has shape [10, 17, 4, 4]", "other dimensions"],
        ),
        (
            with(&[("main.1.extra", &[16])]),
            &["main.1.extra does not belong"],
        ),
        (
            TensorFile::default(),
            &["not the weights of a DCGAN generator"],
        ),
    ] {
        write(&path, &file);
        refuses_to_sample(
            &path,
            &[&["other.safetensors is no checkpoint: "], parts].concat(),
        );
    }
    // The name of a tensor is foreign text.
    let file = renamed(&g, |name| Some(name.replace("main.", "\x1b[2J")));
    write(&path, &file);
    let text = refuses_to_sample(&path, &["\\u{1b}[2J"]);
    assert!(!text.contains('\x1b'));
}

#[test]
fn pickles_say_how_to_convert_them() {
    let root = tempdir().unwrap();
    let pickle = b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pklFB\0\x80\x02}q\0.";
    let folder = root.path().join("from the web");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("netD_epoch_9.pth"), pickle).unwrap();
    fs::write(folder.join("netG_epoch_9.pth"), pickle).unwrap();
    let line = [
        "python3 -c \"import sys, torch",
        "weights_only=True",
        "save_file(",
    ];
    let text = refuses_to_sample(
        &folder,
        &[&["is no checkpoint", "netG_epoch_9.pth"], &line[..]].concat(),
    );
    let end = text
        .trim_end()
        .rsplit_once("sys.argv[2])\" ")
        .unwrap()
        .1
        .to_string();
    let quoted = |name: &str| format!("'{}'", folder.join(name).display());
    assert_eq!(
        end,
        format!(
            "{} {}",
            quoted("netG_epoch_9.pth"),
            quoted("generator.safetensors")
        )
    );
    for extension in ["pth", "pt", "bin", "ckpt", "safetensors"] {
        let file = root.path().join(format!("net.{extension}"));
        fs::write(&file, pickle).unwrap();
        refuses_to_sample(&file, &[&["is a pickle (torch.save)"], &line[..]].concat());
        let output = train_from(&file, &root.path().join("run"), &[]);
        refuses(
            &output,
            1,
            &[&["is a pickle (torch.save)"], &line[..]].concat(),
        );
    }
    // Another name than generator.safetensors.
    let (g, _) = networks();
    write(&root.path().join("named/model.safetensors"), &g);
    refuses_to_sample(
        &root.path().join("named"),
        &["give the file", "named/model.safetensors"],
    );
    // No file at all.
    let pipe = root.path().join("pipe");
    let path = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
    // SAFETY: the path ends in a zero.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    refuses_to_sample(&pipe, &["pipe is no checkpoint"]);
    fs::create_dir(root.path().join("piped")).unwrap();
    fs::rename(&pipe, root.path().join("piped/generator.safetensors")).unwrap();
    refuses_to_sample(&root.path().join("piped"), &["is no checkpoint"]);
}

/// One wrong byte in the first of a safetensors file makes no pickle of it, whatever it is.
#[test]
fn damage_is_not_called_a_pickle() {
    let (root, _) = folder();
    let (g, _) = networks();
    let whole = g.to_bytes().unwrap();
    let path = root.path().join("damaged.safetensors");
    for byte in [0x80, b'P', 0, 0xff] {
        let mut bytes = whole.clone();
        bytes[0] = byte;
        fs::write(&path, &bytes).unwrap();
        let text = refuses_to_sample(
            &path,
            &["damaged.safetensors", "not a whole safetensors file"],
        );
        assert!(!text.contains("pickle"), "{text}");
    }
}

/// Numbers that no network has, where they are, and what is said.
const WRONG: &[(&str, f32, &str)] = &[
    (
        "main.0.weight",
        f32::NAN,
        "main.0.weight[0, 0, 1, 3] is NaN: it is not finite",
    ),
    (
        "main.3.weight",
        f32::INFINITY,
        "main.3.weight[0, 0, 1, 3] is inf: it is not finite",
    ),
    (
        "main.0.weight",
        1e30,
        "main.0.weight[0, 0, 1, 3] is 1e30: nothing there is as large",
    ),
    (
        "main.4.bias",
        -1e30,
        "main.4.bias[7] is -1e30: nothing there is as large",
    ),
    (
        "main.4.running_mean",
        1e30,
        "main.4.running_mean[7] is 1e30: nothing",
    ),
    (
        "main.4.running_var",
        -0.5,
        "main.4.running_var[7] is -5e-1: a variance is never negative",
    ),
    (
        "main.4.running_var",
        1e30,
        "main.4.running_var[7] is 1e30: nothing",
    ),
    (
        "main.4.running_var",
        f32::NEG_INFINITY,
        "main.4.running_var[7] is -inf: it is not finite",
    ),
];

#[test]
fn numbers_that_no_network_has_are_refused_wherever_weights_come_in() {
    let (root, _) = folder();
    let (g, d) = networks();
    let bad = root.path().join("bad");
    write(&bad.join("discriminator.safetensors"), &d);
    let out = root.path().join("run");
    for (name, value, says) in WRONG {
        let mut file = g.clone();
        file.floats.get_mut(*name).unwrap().data[7] = *value;
        write(&bad.join("generator.safetensors"), &file);
        let parts = ["bad/generator.safetensors", says];
        refuses_to_sample(&bad, &parts);
        refuses_to_sample(&bad.join("generator.safetensors"), &parts);
        refuses(&train_from(&bad, &out, &[]), 1, &parts);
        let output = binary()
            .args("evaluate --dataset synthetic --synthetic-count 8 --checkpoint".split(' '))
            .arg(&bad)
            .output()
            .unwrap();
        refuses(&checked(output), 1, &parts);
    }
    // The discriminator's as well.
    write(&bad.join("generator.safetensors"), &g);
    let mut file = d.clone();
    file.floats.get_mut("main.3.running_var").unwrap().data[1] = -1.0;
    write(&bad.join("discriminator.safetensors"), &file);
    let parts = [
        "bad/discriminator.safetensors",
        "main.3.running_var[1] is -1e0",
    ];
    refuses(&train_from(&bad, &out, &[]), 1, &parts);
    assert!(!out.exists());
    // What real networks have is taken: a dead channel, and large ones.
    write(&bad.join("discriminator.safetensors"), &d);
    let mut file = g.clone();
    file.floats.get_mut("main.4.running_var").unwrap().data[0] = 0.0;
    file.floats.get_mut("main.4.running_var").unwrap().data[1] = 1e9;
    file.floats.get_mut("main.4.weight").unwrap().data[1] = -900.0;
    write(&bad.join("generator.safetensors"), &file);
    images(&bad, &[]);
}

/// A checkpoint whose checksums are right, with a number that is not.
#[test]
fn a_checkpoint_with_such_numbers_is_not_resumed() {
    let root = tempdir().unwrap();
    let run = root.path().join("run");
    for (at, (name, value, says)) in WRONG.iter().take(6).enumerate() {
        let (file, name) = match at {
            0 => ("generator_ema.safetensors", *name),
            _ => ("generator.safetensors", *name),
        };
        reseal(&run, file, |tensors| {
            tensors.floats.get_mut(name).unwrap().data[7] = *value
        });
        refuses(
            &train(&run, &["--resume", "--steps", "2"]),
            1,
            &[file, says],
        );
        let error = Checkpoint::load(&checkpoint(&run, 1)).unwrap_err();
        assert!(format!("{error:#}").contains(says), "{error:#}");
    }
    for (name, value) in [
        ("G/exp_avg/main.0.weight", f32::NAN),
        ("D/exp_avg_sq/main.0.weight", -1.0),
    ] {
        reseal(&run, "optimizer.safetensors", |tensors| {
            tensors.floats.get_mut(name).unwrap().data[7] = value;
        });
        let parts = ["optimizer.safetensors", name, "no moment of Adam"];
        refuses(&train(&run, &["--resume", "--steps", "2"]), 1, &parts);
    }
}

/// Makes `run` a fresh copy of the trained run, changes `file` of its checkpoint, and brings all checksums in order.
fn reseal(run: &Path, file: &str, change: impl Fn(&mut TensorFile)) {
    let _ = fs::remove_dir_all(run);
    let done = std::process::Command::new("cp")
        .arg("-r")
        .args([&trained().join("run"), run])
        .status();
    assert!(done.unwrap().success());
    let folder = checkpoint(run, 1);
    let mut tensors = TensorFile::read(&folder.join(file)).unwrap();
    change(&mut tensors);
    let bytes = tensors.to_bytes().unwrap();
    fs::write(folder.join(file), &bytes).unwrap();
    let path = folder.join("state.json");
    let sum = |bytes: &[u8]| -> String {
        Sha256::digest(bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect()
    };
    // Fields keep their order: the text is changed, not the value.
    let text = fs::read_to_string(&path).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let old = value["files"][file]["sha256"].as_str().unwrap();
    let text = text.replace(old, &sum(&bytes));
    let old = value["checksum"].as_str().unwrap();
    let text = text.replace(old, "");
    let bare = compact(&text);
    let text = text.replace(
        "\"checksum\": \"\"",
        &format!("\"checksum\": \"{}\"", sum(bare.as_bytes())),
    );
    fs::write(&path, text).unwrap();
}

/// JSON without blanks between its tokens; no string in it has any.
fn compact(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}
