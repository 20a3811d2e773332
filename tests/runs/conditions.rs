//! Runs that make images for something: what they are told is what the images are, wherever a generator is used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::OnceLock;

use crate::training::*;
use dcgan_cuda::data::condition::Conditions;
use dcgan_cuda::model::Tensor;
use dcgan_cuda::model::params::TensorFile;
use tempfile::{TempDir, tempdir};

/// Images of three classes, all of one shade each: 40, 120 and 200, and a little more from image to image.
const CLASSES: [&str; 3] = ["-a,b", "größe", "z z"];

fn folder_of_classes(root: &Path) -> PathBuf {
    let data = root.join("classes");
    for (class, name) in CLASSES.iter().enumerate() {
        fs::create_dir_all(data.join(name)).unwrap();
        for k in 0..8 {
            let shade = (40 + 80 * class + 2 * k) as u8;
            let image = image::RgbImage::from_pixel(40, 40, image::Rgb([shade; 3]));
            image.save(data.join(format!("{name}/{k}.png"))).unwrap();
        }
    }
    data
}

fn arguments<'a>(data: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let args = [
        "--dataset",
        "folder",
        "--data",
        data,
        "--condition",
        "classes",
        "--device",
        "cpu",
    ];
    let mut all: Vec<&str> = tiny(&[&args[..], more].concat());
    // It is for synthetic faces.
    let at = all
        .iter()
        .position(|arg| *arg == "--synthetic-count")
        .unwrap();
    all.drain(at..at + 2);
    all
}

/// A folder with the data `classes` and runs of three iterations on them and on faces, `classes-run` and `faces-run`,
/// and one without a condition, `plain-run`; only read.
fn runs() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let root = tempdir().unwrap();
            let data = folder_of_classes(root.path());
            let more = ["--steps", "3", "--metrics", "swd", "--metrics-count", "8"];
            let args = arguments(data.to_str().unwrap(), &more);
            succeeds(&train(&root.path().join("classes-run"), &args));
            let args = [
                "--steps",
                "3",
                "--condition",
                "attributes=Male,Smiling,Looking_Right",
                "--device",
                "cpu",
            ];
            train_tiny(&root.path().join("faces-run"), &args);
            train_tiny(
                &root.path().join("plain-run"),
                &["--steps", "3", "--device", "cpu"],
            );
            root
        })
        .path()
}

fn command(args: &[&str]) -> Output {
    run(&[args, &["--device", "cpu"]].concat())
}

/// What `sample` makes of `checkpoint`: images and y.
fn sampled(checkpoint: &Path, more: &[&str]) -> (Tensor, Option<Tensor>) {
    let folder = tempdir().unwrap();
    let out = folder.path().join("images.safetensors");
    let args = [
        "sample",
        "--quiet",
        "--checkpoint",
        checkpoint.to_str().unwrap(),
        "--out",
    ];
    let output = command(&[&args[..], &[out.to_str().unwrap()], more].concat());
    succeeds(&output);
    let mut floats = TensorFile::read(&out).unwrap().floats;
    (floats.remove("images").unwrap(), floats.remove("y"))
}

/// Every image is trained on with its own y, held out or not, and a run that goes on does so with the same bits.
#[test]
fn what_is_recorded_is_what_the_images_are() {
    let root = tempdir().unwrap();
    let data = folder_of_classes(root.path());
    let (whole, parts) = (root.path().join("whole"), root.path().join("parts"));
    let record = root.path().join("record.safetensors");
    let more = ["--hold-out", "0.2", "--flip", "--steps", "6"];
    let args = arguments(data.to_str().unwrap(), &more);
    let recorded = [&args[..], &["--record", record.to_str().unwrap()]].concat();
    succeeds(&train(&whole, &recorded));
    let file = TensorFile::read(&record).unwrap();
    assert_eq!(
        (&*file.metadata["condition"], &*file.metadata["labels"]),
        ("labels", "3")
    );
    let mut seen = [0; 3];
    for step in 0..6 {
        let get = |name: &str| &file.floats[&format!("step/{step:06}/{name}")];
        let (real, y, z) = (get("real"), get("y"), get("z"));
        assert_eq!((&y.shape[..], &z.shape[..]), (&[4, 3][..], &[4, 10][..]));
        assert_eq!(get("before/D/main.8.weight").shape[0], 4);
        for (image, y) in real
            .data
            .chunks_exact(3 * 32 * 32)
            .zip(y.data.chunks_exact(3))
        {
            let class = ((image[0] + 1.0) * 127.5 / 80.0) as usize;
            let hot: Vec<f32> = (0..3).map(|c| f32::from(u8::from(c == class))).collect();
            assert_eq!(y, hot);
            seen[class] += 1;
        }
    }
    assert!(seen.iter().all(|&count| count > 0), "{seen:?}");

    let early: Vec<&str> = args
        .iter()
        .map(|&arg| if arg == "6" { "3" } else { arg })
        .collect();
    succeeds(&train(&parts, &early));
    resume(
        &parts,
        &[
            "--steps",
            "6",
            "--device",
            "cpu",
            "--data-residency",
            "stream",
        ],
    );
    same_result(&whole, &parts, 6);
    let conditions = Conditions::read(&whole).unwrap().unwrap();
    assert_eq!(conditions.names(), CLASSES);
    for folder in [checkpoint(&whole, 6), checkpoint(&parts, 6)] {
        assert_eq!(
            Conditions::read(&folder).unwrap().as_ref(),
            Some(&conditions)
        );
    }
    // Sixteen columns of the same noise, a row a class.
    let sheet = image::open(whole.join("samples/step-000006.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (16 * 34 + 2, 3 * 34 + 2));

    // Without a condition a record says nothing of one.
    let plain = root.path().join("plain.safetensors");
    train_tiny(
        &root.path().join("plain"),
        &[
            "--steps",
            "1",
            "--record",
            plain.to_str().unwrap(),
            "--device",
            "cpu",
        ],
    );
    let file = TensorFile::read(&plain).unwrap();
    assert!(!file.metadata.contains_key("condition") && !file.floats.contains_key("step/000000/y"));
}

#[test]
fn samples_are_asked_for_by_name() {
    let (classes, faces) = (runs().join("classes-run"), runs().join("faces-run"));
    let (images, y) = sampled(&classes, &["--count", "3", "--condition", "z z"]);
    let y = y.unwrap();
    assert_eq!(
        (&y.shape[..], &y.data[..3]),
        (&[3, 3][..], &[0.0, 0.0, 1.0][..])
    );
    assert_eq!(
        sampled(&classes, &["--count", "3", "--condition=class=2"]).0,
        images
    );
    let (others, first) = sampled(&classes, &["--count", "3", "--condition=-a,b"]);
    assert_eq!(&first.unwrap().data[..3], [1.0, 0.0, 0.0]);
    assert_ne!(others, images);
    // As often as in the data, and each image whatever their number.
    let (_, many) = sampled(&classes, &["--count", "40"]);
    let many = many.unwrap().data;
    assert!((0..3).all(|class| many.chunks_exact(3).any(|y| y[class] == 1.0)));
    assert_eq!(
        sampled(&classes, &["--count", "7"]).1.unwrap().data,
        many[..21]
    );

    let (_, y) = sampled(&faces, &["--count", "20", "--condition", "-Male,Smiling"]);
    for y in y.unwrap().data.chunks_exact(3) {
        assert_eq!((y[0], y[1], y[2].abs()), (-1.0, 1.0, 1.0));
    }
    // Alone, a generator's file does not say what it is told.
    let alone = tempdir().unwrap();
    let file = alone.path().join("generator.safetensors");
    fs::copy(checkpoint(&faces, 3).join("generator.safetensors"), &file).unwrap();
    let to = alone.path().join("a.png");
    let args = [
        "sample",
        "--checkpoint",
        file.to_str().unwrap(),
        "--out",
        to.to_str().unwrap(),
    ];
    refuses(
        &command(&args),
        1,
        &["is told labels (3)", "put the conditions.json"],
    );
    fs::copy(
        faces.join("conditions.json"),
        alone.path().join("conditions.json"),
    )
    .unwrap();
    let raw = ["--weights", "raw", "--count", "4", "--condition", "Male"];
    assert_eq!(sampled(&file, &raw), sampled(&faces, &raw));

    // A sheet shows all classes, unless something else is asked for.
    let sheet = |name: &str, more: &[&str]| {
        let to = alone.path().join(name);
        let args = [
            "sample",
            "--quiet",
            "--checkpoint",
            classes.to_str().unwrap(),
            "--out",
        ];
        succeeds(&command(
            &[&args[..], &[to.to_str().unwrap()], more].concat(),
        ));
        let sheet = image::open(to).unwrap();
        (sheet.width() / 34, sheet.height() / 34)
    };
    assert_eq!(sheet("b.png", &[]), (16, 3));
    assert_eq!(sheet("c.png", &["--count", "16"]), (4, 4));
    assert_eq!(sheet("d.png", &["--condition", "größe"]), (8, 8));

    let refused = |run: &Path, condition: &str, parts: &[&str]| {
        let condition = format!("--condition={condition}");
        let to = alone.path().join("no.png");
        let args = [
            "sample",
            "--checkpoint",
            run.to_str().unwrap(),
            "--out",
            to.to_str().unwrap(),
            &condition,
        ];
        refuses(&command(&args), 1, parts);
        assert!(!to.exists());
    };
    refused(
        &runs().join("plain-run"),
        "Male",
        &["trained without a condition", "train --condition"],
    );
    refused(
        &faces,
        "Male,-Male",
        &["--condition Male,-Male", "both present and absent"],
    );
    refused(&faces, "Smilling", &["did you mean Smiling?"]);
    refused(
        &faces,
        "Bald",
        &["there is no Bald", "Male, Smiling, Looking_Right"],
    );
    refused(&classes, "class=3", &["there is no class 3", "0 to 2"]);
    refused(
        &classes,
        "classes",
        &["--condition classes: this is what train takes"],
    );
    refused(&classes, "", &["--condition \"\": it names no class"]);
    refused(
        &classes,
        "grosse",
        &["there is no grosse: did you mean größe?"],
    );
}

#[test]
fn data_that_cannot_be_a_condition_are_refused() {
    let root = tempdir().unwrap();
    let data = folder_of_classes(root.path());
    let out = root.path().join("run");
    let refused = |args: &[&str], parts: &[&str]| {
        refuses(
            &train(
                &out,
                &[args, &["--device", "cpu", "--image-size", "32"]].concat(),
            ),
            1,
            parts,
        );
        assert!(!out.exists());
    };
    let folder = |data: &Path| data.to_str().unwrap().to_string();
    let one = folder(&data.join("z z"));
    refused(
        &[
            "--dataset",
            "folder",
            "--data",
            &one,
            "--condition",
            "classes",
        ],
        &[
            "there are no classes in",
            "a folder for each class",
            "train without --condition",
        ],
    );
    refused(
        &[
            "--dataset",
            "folder",
            "--data",
            &folder(&data),
            "--condition",
            "attributes",
        ],
        &["there are none in", "celeba"],
    );
    refused(
        &["--condition", "attributes=Malle"],
        &["there is no Malle: did you mean Male?"],
    );
    refused(
        &["--condition", "attributes=Female"],
        &["Female is the opposite of Male"],
    );
    refused(
        &["--condition", "attributes=Chubby"],
        &["no image has Chubby, so that it cannot be learnt"],
    );
    let many = root.path().join("many");
    for class in 0..1025 {
        fs::create_dir_all(many.join(class.to_string())).unwrap();
        fs::copy(data.join("z z/0.png"), many.join(format!("{class}/a.png"))).unwrap();
    }
    refused(
        &[
            "--dataset",
            "folder",
            "--data",
            &folder(&many),
            "--condition",
            "classes",
        ],
        &["1025 names are too many for a condition, 1024 at most"],
    );
    let output = run(&["train", "--condition", "class"]);
    refuses(&output, 2, &["did you mean classes?", "./class"]);
    // What is not known of a few is told of the first.
    let lines = run(&[
        "train",
        "--dry-run",
        "--device",
        "cpu",
        "--condition",
        "attributes=Male,Looking_Right",
    ]);
    let text = String::from_utf8(lines.stdout).unwrap();
    assert!(
        text.contains("condition: 2 attributes: Male, Looking_Right"),
        "{text}"
    );
    assert!(text.contains("1×1×102 → 4×4"), "{text}");
}

#[test]
fn a_run_keeps_its_condition() {
    let root = tempdir().unwrap();
    let data = folder_of_classes(root.path());
    let out = root.path().join("run");
    let args = arguments(data.to_str().unwrap(), &["--steps", "2"]);
    succeeds(&train(&out, &args));
    let again = |more: &[&str]| train(&out, &[&["--resume", "--device", "cpu"], more].concat());
    refuses(
        &again(&["--condition", "attributes"]),
        1,
        &["--condition was classes, not attributes"],
    );
    refuses(
        &train(
            &runs().join("plain-run"),
            &["--resume", "--condition", "classes"],
        ),
        1,
        &["--condition was not given, not classes"],
    );
    // Another class of the same images.
    fs::rename(data.join(CLASSES[2]), data.join("other")).unwrap();
    refuses(
        &again(&["--steps", "3"]),
        1,
        &["the run was begun with z z, and the data have other in its place"],
    );
    fs::rename(data.join("other"), data.join(CLASSES[2])).unwrap();
    // A file that names other classes than the networks were trained on, or none.
    let file = checkpoint(&out, 2).join("conditions.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("größe", "grosse")).unwrap();
    refuses(
        &again(&["--steps", "3"]),
        1,
        &["conditions.json is damaged"],
    );
    let to = root.path().join("a.png");
    let args = [
        "sample",
        "--checkpoint",
        out.to_str().unwrap(),
        "--out",
        to.to_str().unwrap(),
    ];
    refuses(&command(&args), 1, &["conditions.json is damaged"]);
    fs::remove_file(&file).unwrap();
    refuses(&command(&args), 1, &["conditions.json"]);
    fs::write(&file, text).unwrap();
    resume(&out, &["--steps", "3", "--device", "cpu"]);
}

#[test]
fn a_run_starts_from_networks_that_were_told_the_same() {
    let (classes, faces) = (runs().join("classes-run"), runs().join("faces-run"));
    let root = tempdir().unwrap();
    let data = runs().join("classes");
    let out = root.path().join("run");
    let from = |run: &Path| {
        [
            "--steps".to_string(),
            "1".to_string(),
            "--init-from".to_string(),
            run.to_str().unwrap().to_string(),
        ]
    };
    let start = |run: &Path, args: &[&str]| {
        let from = from(run);
        let from: Vec<&str> = from.iter().map(String::as_str).collect();
        train(&out, &[args, &from].concat())
    };
    let on_classes = arguments(data.to_str().unwrap(), &[]);
    let on_faces = |names: &'static str| tiny(&["--device", "cpu", "--condition", names]);
    let plain = tiny(&["--device", "cpu"]);
    let refused = |run: &Path, args: &[&str], parts: &[&str]| {
        refuses(&start(run, args), 1, parts);
        assert!(!out.exists());
    };
    refused(
        &classes,
        &plain,
        &["trained with --condition classes, and this run has none"],
    );
    refused(
        &runs().join("plain-run"),
        &on_classes,
        &["trained without a condition"],
    );
    refused(
        &faces,
        &on_classes,
        &["trained with --condition attributes, and this run has classes"],
    );
    refused(
        &faces,
        &on_faces("attributes=Male,No_Beard,Looking_Right"),
        &[
            "trained with other attributes (Smiling is none of this run's): theirs are Male, Smiling, Looking_Right",
        ],
    );
    refused(
        &faces,
        &on_faces("attributes=Smiling,Male,Looking_Right"),
        &["the same in another order"],
    );
    succeeds(&start(
        &faces,
        &on_faces("attributes=Male,Smiling,Looking_Right"),
    ));
    assert!(checkpoint(&out, 1).join("conditions.json").exists());
    // Weights as another program has them, with what they are told beside them.
    let folder = root.path().join("weights");
    fs::create_dir(&folder).unwrap();
    for name in [
        "generator.safetensors",
        "discriminator.safetensors",
        "conditions.json",
    ] {
        fs::copy(checkpoint(&classes, 3).join(name), folder.join(name)).unwrap();
    }
    fs::remove_dir_all(&out).unwrap();
    succeeds(&start(&folder, &on_classes));
}

/// Everything else that makes images of a generator.
#[test]
fn tools_are_told_what_to_make() {
    let (classes, faces) = (runs().join("classes-run"), runs().join("faces-run"));
    let root = tempdir().unwrap();
    let name = |name: &str| root.path().join(name).to_str().unwrap().to_string();
    // By the same seed `evaluate` sees what `sample` makes: another y gives other numbers.
    let evaluated = |to: &str, more: &[&str]| {
        let (to, run) = (name(to), faces.to_str().unwrap());
        let args = [
            "evaluate",
            "--quiet",
            "--checkpoint",
            run,
            "--dataset",
            "synthetic",
        ];
        let args = [
            &args[..],
            &["--synthetic-count", "32", "--count", "16", "--json", &to],
            more,
        ]
        .concat();
        succeeds(&command(&args));
        fs::read_to_string(to).unwrap()
    };
    let drawn = evaluated("a.json", &[]);
    assert_eq!(drawn, evaluated("b.json", &[]));
    assert_ne!(
        drawn,
        evaluated("c.json", &["--condition", "Male,-Smiling"])
    );

    let walk = |to: &str, more: &[&str]| {
        let (to, run) = (name(to), classes.to_str().unwrap());
        let args = [
            "latent",
            "walk",
            "1",
            "2",
            "--steps",
            "2",
            "--checkpoint",
            run,
            "--out",
            &to,
        ];
        command(&[&args[..], more].concat())
    };
    let output = walk("walk", &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let said = "note: the images are those of --condition=-a,b: choose others with it";
    assert!(stderr(&output).contains(said), "{}", stderr(&output));
    let output = walk("other", &["--condition", "größe"]);
    assert!(
        output.status.success() && stderr(&output).is_empty(),
        "{}",
        stderr(&output)
    );
    assert_ne!(
        contents(&root.path().join("walk")),
        contents(&root.path().join("other"))
    );
    refuses(&walk("no", &["--condition", "x"]), 1, &["there is no x"]);

    // Its directions are those of z alone, and a photograph's vector has no labels in it.
    let run = faces.to_str().unwrap();
    let args = [
        "latent",
        "directions",
        "find",
        "--quiet",
        "--checkpoint",
        run,
        "--out",
    ];
    let to = name("found");
    let output = command(&[&args[..], &[&to, "--condition", "Male"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));

    let page = name("page.html");
    let args = ["explore", "--checkpoint", run, "--share", &page];
    let output = command(&args);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("those of --condition="),
        "{}",
        stderr(&output)
    );
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.contains("\"told\":["), "no labels");
}
