//! cuDNN and cuBLAS: what is passed to them, held to the CPU backend in f64 through emulated ones
//! (`cuda/emulation/cudnn.cpp`, `cublas.cpp`); and how they are found, or why not.
//!
//! A process finds its libraries once, so that every case runs in a child process of this executable, on whose library
//! path are the emulated libraries and a stand-in for the emulated driver that runs work at once. The child runs one of
//! the ignored tests.

mod driver;
mod emulation;
mod libraries;
mod training;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use cudarc::driver::{result, sys};
use dcgan_cuda::backend::Precision;
use dcgan_cuda::backend::cpu::conv_transpose2d::scatter;
use dcgan_cuda::backend::cpu::conv_wgrad::weight_gradient;
use dcgan_cuda::backend::cpu::conv2d::{Geometry, gather};
use dcgan_cuda::backend::cuda::conv::cublas::{self, Cublas};
use dcgan_cuda::backend::cuda::conv::cudnn::{self, Algorithm, Cudnn, CudnnConvolution};
use dcgan_cuda::backend::cuda::conv::shape::{ConvShape, Pass};
use dcgan_cuda::backend::cuda::driver::library::{Library, find};
use dcgan_cuda::model::Shape;
use dcgan_cuda::random::{Purpose, Stream};
use emulation::{Memory, TYPES, Type, assert_close, relative_error};
use libraries::{compile, cublas, cudnn};
use tempfile::TempDir;

/// The only stream that the stand-in for the driver takes.
const STREAM: usize = 0x5eed;

/// Work runs at once, from a copy as the emulated driver makes it.
const STAND_IN: &str = r#"
#include <cstdint>
#include <cstring>
#include <vector>
extern "C" int emulated_enqueue(void* stream, void (*call)(void*), const void* data, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(stream) != 0x5eed) return 1;
    std::vector<uint64_t> copy((bytes + 7) / 8);
    std::memcpy(copy.data(), data, bytes);
    call(copy.data());
    return 0;
}
extern "C" int emulated_check(const void* at, size_t) { return at == nullptr; }
"#;

fn stand_in(folder: &Path) {
    let source = folder.join("stand_in.cpp");
    fs::write(&source, STAND_IN).unwrap();
    let visible = ["-fvisibility=default"];
    compile(&source, &folder.join("libcuda.so"), "libcuda.so", &visible);
}

/// A child process that finds no libraries but those that it is given: no Python, no toolkit, and not in this project,
/// whose `.toolchain/` may have real ones.
struct Child {
    folder: TempDir,
    environment: BTreeMap<&'static str, PathBuf>,
}

impl Child {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let empty = folder.path().join("empty");
        fs::create_dir(&empty).unwrap();
        Self {
            folder,
            environment: BTreeMap::from([("PATH", empty)]),
        }
    }

    /// A path in its folder.
    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    fn set(&mut self, name: &'static str, below: &str) -> &mut Self {
        self.environment.insert(name, self.path(below));
        self
    }

    fn run(&self, test: &str) -> Output {
        let program = self.path("program");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let mut command = Command::new(program);
        command
            .args(["--ignored", "--exact", "--nocapture", test])
            .current_dir(self.folder.path())
            .env_clear()
            .envs(&self.environment);
        training::output_of_copy(&mut command)
    }

    /// Runs a test that has to pass.
    fn passes(&self, test: &str) -> String {
        let out = self.run(test);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{text}{errors}");
        assert!(text.contains("test result: ok. 1 passed"), "{text}");
        text
    }

    /// What `find` says there of `library`; `None` where the machine has one of its own in a system folder.
    fn finds(&self, library: &Library) -> Option<String> {
        let text = self.passes("find_and_tell");
        let start = format!("FIND {library}: ");
        let line = text.lines().find_map(|l| l.strip_prefix(&start)).unwrap();
        if line.starts_with("Ok") && !line.contains(self.folder.path().to_str().unwrap()) {
            eprintln!("SKIPPED: this machine has a {library} on its own: {line}");
            return None;
        }
        Some(line.to_owned())
    }
}

#[test]
#[ignore = "run by the others in a child process"]
fn find_and_tell() {
    for library in [&cublas::LIBRARY, &cudnn::LIBRARY] {
        let found = find(library);
        println!("\nFIND {library}: {found:?}");
        assert_eq!(found, find(library));
        // As cudarc looks them up, without a panic.
        if found.is_ok() {
            match library.name {
                "cublas" => {
                    let mut major = 0;
                    let part = cudarc::cublas::sys::libraryPropertyType::MAJOR_VERSION;
                    // SAFETY: writes one number.
                    unsafe { cudarc::cublas::sys::cublasGetProperty(part, &mut major) };
                    assert_eq!(major, 13);
                }
                _ => {
                    let version = cudarc::cudnn::result::get_version();
                    assert_eq!(version / 10_000, 9);
                }
            }
        } else {
            let error = match library.name {
                // SAFETY: fails before it uses the stream or the memory.
                "cublas" => unsafe {
                    Cublas::new(std::ptr::null_mut(), (0, 0), Precision::Fp32, false).err()
                },
                // SAFETY: the same.
                _ => unsafe { Cudnn::new(std::ptr::null_mut()).err() },
            };
            let error = error.unwrap().to_string();
            assert!(error.contains("cannot be used: "), "{error}");
        }
    }
}

#[test]
fn missing_libraries_are_named_with_what_to_do() {
    let child = Child::new();
    for (library, parts) in [
        (&cudnn::LIBRARY, ["libcudnn.so.9", "nvidia-cudnn-cu13"]),
        (&cublas::LIBRARY, ["libcublas.so.13", "nvidia-cublas"]),
    ] {
        let Some(line) = child.finds(library) else {
            continue;
        };
        assert!(line.starts_with("Err"), "{line}");
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        assert!(line.contains("scripts/bootstrap --libraries"), "{line}");
    }
}

#[test]
fn libraries_are_found_on_the_loaders_path() {
    let mut child = Child::new();
    cudnn(&child.path("lib/libcudnn.so.9"), &[]);
    cublas(&child.path("lib/libcublas.so.13"), &[]);
    child.set("LD_LIBRARY_PATH", "lib");
    let line = child.finds(&cudnn::LIBRARY).unwrap();
    assert!(line.contains("lib/libcudnn.so.9"), "{line}");
    assert!(line.contains("9.12.0 for CUDA 13.0"), "{line}");
    let line = child.finds(&cublas::LIBRARY).unwrap();
    assert!(line.contains("lib/libcublas.so.13"), "{line}");
    assert!(line.contains("13.1.2"), "{line}");
}

#[test]
fn libraries_are_found_in_python_environments_toolkits_and_the_toolchain() {
    let packages = "lib/python3.11/site-packages";
    for (variable, value, folder) in [
        (
            "VIRTUAL_ENV",
            "venv",
            format!("venv/{packages}/nvidia/cudnn/lib"),
        ),
        (
            "CONDA_PREFIX",
            "conda",
            format!("conda/{packages}/nvidia/cudnn/lib"),
        ),
        ("CONDA_PREFIX", "conda", "conda/lib".into()),
        ("CUDA_HOME", "cuda", "cuda/lib64".into()),
        ("CUDA_PATH", "cuda", "cuda/lib64".into()),
        ("HOME", "home", ".toolchain/lib".into()),
    ] {
        let mut child = Child::new();
        let path = child.path(&folder).join("libcudnn.so.9");
        cudnn(&path, &[]);
        child.set(variable, value);
        if let Some(line) = child.finds(&cudnn::LIBRARY) {
            assert!(
                line.starts_with("Ok") && line.contains(path.to_str().unwrap()),
                "{line}"
            );
        }
    }
}

/// An interpreter for the child that runs `script`.
fn interpreter(child: &mut Child, name: &str, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    let program = child.path("bin").join(name);
    fs::create_dir_all(child.path("bin")).unwrap();
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    child.set("PATH", "bin");
}

#[test]
fn the_interpreter_on_path_is_asked_for_its_packages() {
    let mut child = Child::new();
    let path = child.path("site/nvidia/cudnn/lib/libcudnn.so.9");
    cudnn(&path, &[]);
    let say = format!("echo; echo relative; echo {}", child.path("site").display());
    interpreter(&mut child, "python3", "exit 1");
    interpreter(&mut child, "python", &say);
    if let Some(line) = child.finds(&cudnn::LIBRARY) {
        assert!(
            line.starts_with("Ok") && line.contains(path.to_str().unwrap()),
            "{line}"
        );
    }
}

#[test]
fn an_interpreter_that_hangs_is_left_alone() {
    let mut child = Child::new();
    interpreter(&mut child, "python3", "exec /bin/sleep 300");
    let start = Instant::now();
    if let Some(line) = child.finds(&cudnn::LIBRARY) {
        assert!(line.starts_with("Err"), "{line}");
    }
    // Asked for each library, five seconds at a time.
    let took = start.elapsed();
    assert!(took < Duration::from_secs(60), "{took:?}");
}

#[test]
fn unsuitable_libraries_are_treated_as_missing_with_the_reason() {
    for (flags, reason) in [
        (
            &["-DcudnnSetStream=renamed"][..],
            "has no function cudnnSetStream",
        ),
        (
            &["-DEMULATED_CUDNN_VERSION=8907"],
            "is version 8907 by cudnnGetVersion, and 9 is needed",
        ),
        (
            &["-DEMULATED_CUDNN_CUDA=12040"],
            "is for CUDA 12.4, and 13 is needed",
        ),
        (
            &["-DcudnnGetVersion=renamed"],
            "has no function cudnnGetVersion",
        ),
    ] {
        let mut child = Child::new();
        cudnn(&child.path("lib/libcudnn.so.9"), flags);
        child.set("LD_LIBRARY_PATH", "lib");
        let line = child.finds(&cudnn::LIBRARY).unwrap();
        assert!(line.starts_with("Err") && line.contains(reason), "{line}");
        assert!(
            line.contains("libcudnn.so.9") && line.contains("scripts/bootstrap"),
            "{line}"
        );
    }
    for (flags, reason) in [
        (
            &["-DcublasGemmEx=renamed"][..],
            "has no function cublasGemmEx",
        ),
        (
            &["-DEMULATED_CUBLAS_MAJOR=12"],
            "is version 12.1.2, and 13 is needed",
        ),
    ] {
        let mut child = Child::new();
        cublas(&child.path("lib/libcublas.so.13"), flags);
        child.set("LD_LIBRARY_PATH", "lib");
        let line = child.finds(&cublas::LIBRARY).unwrap();
        assert!(line.starts_with("Err") && line.contains(reason), "{line}");
    }
}

#[test]
fn a_file_that_is_no_library_is_passed_over() {
    let mut child = Child::new();
    let broken = child.path("venv/lib/python3.11/site-packages/nvidia/cudnn/lib/libcudnn.so.9");
    fs::create_dir_all(broken.parent().unwrap()).unwrap();
    fs::write(&broken, "no library").unwrap();
    child.set("VIRTUAL_ENV", "venv");
    if let Some(line) = child.finds(&cudnn::LIBRARY) {
        assert!(
            line.starts_with("Err") && line.contains("does not load"),
            "{line}"
        );
    }
    let whole = child.path("cuda/lib64/libcudnn.so.9");
    cudnn(&whole, &[]);
    child.set("CUDA_HOME", "cuda");
    if let Some(line) = child.finds(&cudnn::LIBRARY) {
        assert!(line.contains(whole.to_str().unwrap()), "{line}");
    }
}

#[test]
fn a_suitable_library_is_found_behind_an_unsuitable_one() {
    let mut child = Child::new();
    cudnn(
        &child.path("old/libcudnn.so.9"),
        &["-DEMULATED_CUDNN_CUDA=12040"],
    );
    let good = child.path("cuda/lib64/libcudnn.so.9");
    cudnn(&good, &[]);
    child.set("LD_LIBRARY_PATH", "old").set("CUDA_HOME", "cuda");
    let line = child.finds(&cudnn::LIBRARY).unwrap();
    assert!(line.contains(good.to_str().unwrap()), "{line}");

    // Under the name that cudarc tries first it cannot be got round.
    let old = child.path("old");
    fs::rename(old.join("libcudnn.so.9"), old.join("libcudnn.so")).unwrap();
    let line = child.finds(&cudnn::LIBRARY).unwrap();
    assert!(
        line.starts_with("Err") && line.contains("prefers another"),
        "{line}"
    );
}

/// Not emulated: what `scripts/bootstrap --libraries` fetched.
#[test]
fn real_libraries_are_found_and_tell_their_versions() {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join(".toolchain/lib");
    if !fetched.join("libcudnn.so.9").is_file() {
        eprintln!("SKIPPED: no real cuDNN and cuBLAS, run scripts/bootstrap --libraries first");
        return;
    }
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "find_and_tell"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let line = |start: &str| text.lines().find(|l| l.starts_with(start)).unwrap();
    for (start, version) in [
        ("FIND cuBLAS: ", "version: \"13."),
        ("FIND cuDNN: ", "version: \"9."),
    ] {
        let line = line(start);
        assert!(line.contains("Ok(") && line.contains(version), "{line}");
    }
}

fn precision(t: Type) -> Precision {
    match t {
        Type::F32 => Precision::Fp32,
        Type::F16 => Precision::Fp16,
        Type::Bf16 => Precision::Bf16,
    }
}

/// Stride 2, padding 1, the large map twice the small one.
fn halving(n: u32, (h, w): (u32, u32), c: u32, k: u32) -> ConvShape {
    ConvShape {
        n,
        small_h: h,
        small_w: w,
        k,
        large_h: 2 * h,
        large_w: 2 * w,
        c,
        stride: 2,
        pad: 1,
        side: 4,
    }
}

/// Stride 1, no padding: 4×4 to 1×1 if the small map is 1×1.
fn collapsing(n: u32, (h, w): (u32, u32), c: u32, k: u32) -> ConvShape {
    ConvShape {
        large_h: h + 3,
        large_w: w + 3,
        stride: 1,
        pad: 0,
        ..halving(n, (h, w), c, k)
    }
}

/// 3×3, stride 1, padding 1: maps of one size.
fn keeping(n: u32, (h, w): (u32, u32), c: u32, k: u32) -> ConvShape {
    ConvShape {
        large_h: h,
        large_w: w,
        stride: 1,
        side: 3,
        ..halving(n, (h, w), c, k)
    }
}

/// `len` normal numbers, as storage type `t` holds them; `which` tells tensors apart.
fn normal(t: Type, len: usize, which: u64) -> Vec<f64> {
    let mut values = vec![0.0; len];
    Stream::new(13, Purpose::Projection, which).fill_normal(&mut values);
    values.iter().map(|&v| t.round(f64::from(v))).collect()
}

/// `[outer, inner]` to `[inner, outer]`.
fn transposed(values: &[f64], inner: usize) -> Vec<f64> {
    (0..inner)
        .flat_map(|i| values.iter().copied().skip(i).step_by(inner))
        .collect()
}

/// A case's tensors on the device, and what the CPU backend makes of them.
struct Case {
    convolution: ConvShape,
    small: Memory,
    large: Memory,
    /// `[k][r][s][c]`.
    weight: Memory,
    /// What Gather, Scatter and Weights give.
    expected: [Vec<f64>; 3],
}

const PASSES: [Pass; 3] = [Pass::Gather, Pass::Scatter, Pass::Weights];

impl Case {
    fn new(convolution: ConvShape, t: Type) -> Self {
        let small = normal(t, convolution.small_len(), 1);
        let large = normal(t, convolution.large_len(), 2);
        let weight = normal(t, convolution.weights(), 3);
        let shape = |h, w, c| Shape::new(h as usize, w as usize, c as usize);
        let ConvShape { k, c, .. } = convolution;
        let geometry = Geometry {
            small: shape(convolution.small_h, convolution.small_w, k),
            large: shape(convolution.large_h, convolution.large_w, c),
            side: convolution.side as usize,
            stride: convolution.stride as usize,
            pad: convolution.pad as usize,
        };
        // The CPU keeps [r][s][c][k].
        let cpu_weight = transposed(&weight, convolution.taps() * c as usize);
        let mut down = vec![f64::NAN; small.len()];
        gather(&geometry, &large, &cpu_weight, &mut down);
        let mut up = vec![f64::NAN; large.len()];
        scatter(&geometry, &small, &cpu_weight, &mut up);
        let mut gradient = vec![f64::NAN; weight.len()];
        weight_gradient(&geometry, &large, &small, &mut gradient);
        Self {
            convolution,
            small: Memory::typed(t, &small),
            large: Memory::typed(t, &large),
            weight: Memory::typed(t, &weight),
            expected: [down, up, transposed(&gradient, k as usize)],
        }
    }

    /// The addresses that `pass` reads.
    fn inputs(&self, pass: Pass) -> (u64, u64) {
        let [small, large] = [&self.small, &self.large].map(Memory::address);
        match pass {
            Pass::Gather => (large, self.weight.address()),
            Pass::Scatter => (small, self.weight.address()),
            Pass::Weights => (large, small),
        }
    }

    fn expected(&self, pass: Pass) -> &[f64] {
        &self.expected[PASSES.iter().position(|&p| p == pass).unwrap()]
    }
}

/// Odd batches and channels, maps that are not square.
fn cases() -> Vec<ConvShape> {
    vec![
        halving(1, (2, 2), 3, 5),
        halving(3, (4, 4), 1, 8),
        halving(7, (2, 4), 8, 16),
        halving(3, (4, 2), 12, 20),
        halving(2, (8, 8), 3, 16),
        collapsing(1, (1, 1), 3, 5),
        collapsing(7, (1, 1), 24, 1),
        collapsing(130, (1, 1), 5, 8),
        keeping(3, (4, 3), 12, 20),
        keeping(1, (1, 1), 3, 5),
    ]
}

#[test]
#[ignore = "run by the others in a child process"]
fn cudnn_convolutions_agree() {
    let stream = std::ptr::without_provenance_mut(STREAM);
    // SAFETY: the stand-in only compares it.
    let cudnn = unsafe { Cudnn::new(stream) }.unwrap();
    let mut runs = 0;
    for (t, tf32) in TYPES
        .map(|t| (t, false))
        .into_iter()
        .chain([(Type::F32, true)])
    {
        for convolution in cases() {
            let case = Case::new(convolution, t);
            let made = CudnnConvolution::new(&cudnn, &convolution, precision(t), tf32).unwrap();
            for pass in PASSES {
                let what = format!("{pass:?} {t:?} tf32 {tf32} {convolution:?}");
                let algorithms = made.algorithms(pass, usize::MAX).unwrap();
                // The heuristics offer one that is not deterministic, and one that does not work, before these.
                let maths: Vec<u32> = algorithms.iter().map(|a| a.math).collect();
                let (tensor_op, fma) = (1, 3);
                let rounds = t == Type::F32 && tf32;
                if t == Type::F32 && !tf32 {
                    assert_eq!(maths, [fma], "{what}");
                } else {
                    assert_eq!(maths, [tensor_op, fma], "{what}");
                }
                for algorithm in algorithms {
                    assert!(algorithm.workspace > 0, "{what}");
                    let less = made.algorithms(pass, algorithm.workspace - 1).unwrap();
                    assert_eq!(less, [], "{what}");
                    let workspace = Memory::poisoned(algorithm.workspace);
                    let expected = case.expected(pass);
                    let out = Memory::poisoned(expected.len() * t.size());
                    let (a, b) = case.inputs(pass);
                    let place = workspace.address();
                    // SAFETY: all of it lives, in the sizes of the case; the stand-in runs it before this returns.
                    unsafe { made.run(pass, &algorithm, a, b, out.address(), place) }.unwrap();
                    let got = out.read(t);
                    if rounds && algorithm.math == tensor_op {
                        // Ten bits of mantissa: about 3e-4, and not exact.
                        let error = relative_error(&got, expected);
                        assert!(error > 1e-5 && error < 1e-3, "{what}: {error}");
                    } else {
                        assert_close(&what, &got, expected, t.tolerance());
                    }
                    assert!(workspace.bytes().iter().any(|&byte| byte != 0xff));
                    // SAFETY: both are refused before anything is touched.
                    unsafe {
                        made.run(pass, &algorithm, a, b, out.address(), 0)
                            .unwrap_err();
                        let unknown = Algorithm {
                            id: 99,
                            ..algorithm
                        };
                        made.run(pass, &unknown, a, b, out.address(), place)
                            .unwrap_err();
                    }
                    runs += 1;
                }
            }
        }
    }
    assert_eq!(runs, 10 * 3 * (1 + 2 + 2 + 2));
}

#[test]
#[ignore = "run by the others in a child process"]
fn cublas_products_agree() {
    let stream: *mut _ = std::ptr::without_provenance_mut(STREAM);
    for (t, tf32) in TYPES
        .map(|t| (t, false))
        .into_iter()
        .chain([(Type::F32, true)])
    {
        let memory = Memory::poisoned(1024);
        let workspace = (memory.address().next_multiple_of(256), 512);
        // SAFETY: the workspace lives until the end of this turn; the stand-in runs work at once.
        let cublas = unsafe { Cublas::new(stream, workspace, precision(t), tf32) }.unwrap();
        let mut runs = 0;
        for convolution in cases() {
            let case = Case::new(convolution, t);
            for pass in PASSES {
                let what = format!("{pass:?} {t:?} tf32 {tf32} {convolution:?}");
                let expected = case.expected(pass);
                let out_type = if pass == Pass::Weights { Type::F32 } else { t };
                let out = Memory::poisoned(expected.len() * out_type.size());
                let (a, b) = case.inputs(pass);
                // SAFETY: all of it lives, in the sizes of the case; the stand-in runs it before this returns.
                let ran = unsafe { cublas.run(pass, &convolution, a, b, out.address()) };
                if !convolution.is_matrix() {
                    let error = ran.unwrap_err().to_string();
                    assert!(error.contains("no matrix product"), "{error}");
                    continue;
                }
                ran.unwrap();
                let got = out.read(out_type);
                if tf32 {
                    let error = relative_error(&got, expected);
                    assert!(error > 1e-5 && error < 1e-3, "{what}: {error}");
                } else {
                    assert_close(&what, &got, expected, out_type.tolerance());
                }
                runs += 1;
            }
        }
        assert_eq!(runs, 3 * 3);
        // Fails where cuBLAS was told more of it than there is.
        memory.bytes();
    }
}

/// On a stream that the driver does not know, both say so.
#[test]
#[ignore = "run by the others in a child process"]
fn failures_are_told() {
    let stream: *mut _ = std::ptr::without_provenance_mut(STREAM + 1);
    let case = Case::new(collapsing(1, (1, 1), 8, 8), Type::F32);
    let out = Memory::poisoned(case.convolution.small_len() * 4);
    let (a, b) = case.inputs(Pass::Gather);
    // SAFETY: the stand-in only compares it.
    let cudnn = unsafe { Cudnn::new(stream) }.unwrap();
    let made = CudnnConvolution::new(&cudnn, &case.convolution, Precision::Fp32, false).unwrap();
    let algorithm = made.algorithms(Pass::Gather, usize::MAX).unwrap()[0];
    let memory = Memory::poisoned(algorithm.workspace + 1024);
    let place = memory.address().next_multiple_of(256);
    // SAFETY: nothing is run on that stream.
    let error = unsafe { made.run(Pass::Gather, &algorithm, a, b, out.address(), place) };
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("cuDNN") && error.contains("EXECUTION_FAILED"),
        "{error}"
    );
    // SAFETY: nothing is run on that stream.
    let error = unsafe {
        let cublas = Cublas::new(stream, (place, 512), Precision::Fp32, false).unwrap();
        cublas.run(Pass::Gather, &case.convolution, a, b, out.address())
    };
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("cuBLAS") && error.contains("EXECUTION_FAILED"),
        "{error}"
    );
    // No convolution that cuDNN could describe.
    let empty = ConvShape {
        n: 0,
        ..case.convolution
    };
    let error = CudnnConvolution::new(&cudnn, &empty, Precision::Fp32, false).err();
    let error = error.unwrap().to_string();
    assert!(error.contains("describe a map"), "{error}");
}

/// Device memory with these bytes.
fn on_device(bytes: &[u8]) -> u64 {
    // SAFETY: a context is current; the memory is as long as what is copied.
    unsafe {
        let at = result::malloc_sync(bytes.len()).unwrap();
        result::memcpy_htod_sync(at, bytes).unwrap();
        at
    }
}

/// On the emulated driver, in the way that training runs them: captured into a graph once, which is replayed on new
/// inputs.
#[test]
#[ignore = "run by the others in a child process"]
fn both_run_in_a_captured_graph() {
    let t = Type::Bf16;
    result::init().unwrap();
    let device = result::device::get(0).unwrap();
    // SAFETY: all memory is allocated before it is used, in the sizes of the case, and freed after the stream is done.
    unsafe {
        let context = result::primary_ctx::retain(device).unwrap();
        result::ctx::set_current(context).unwrap();
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
        let case = Case::new(collapsing(3, (1, 1), 8, 24), t);
        let [small, large, weight] =
            [&case.small, &case.large, &case.weight].map(|m| on_device(&m.bytes()));
        let inputs = |pass| match pass {
            Pass::Gather => (large, weight),
            Pass::Scatter => (small, weight),
            Pass::Weights => (large, small),
        };
        let cudnn = Cudnn::new(stream).unwrap();
        let convolution =
            CudnnConvolution::new(&cudnn, &case.convolution, precision(t), false).unwrap();
        let cublas_workspace = (on_device(&[0; 1024]), 1024);
        let cublas = Cublas::new(stream, cublas_workspace, precision(t), false).unwrap();
        let mut memory = vec![small, large, weight, cublas_workspace.0];
        let mut outputs = Vec::new();
        for pass in PASSES {
            let algorithm = convolution.algorithms(pass, usize::MAX).unwrap()[0];
            let workspace = on_device(&vec![0; algorithm.workspace]);
            memory.push(workspace);
            let product_type = if pass == Pass::Weights { Type::F32 } else { t };
            let elements = case.expected(pass).len();
            let poison = vec![0xff; elements * 4];
            let [made, product] =
                [t, product_type].map(|o| on_device(&poison[..elements * o.size()]));
            memory.extend([made, product]);
            outputs.push((
                pass,
                algorithm,
                workspace,
                (made, t),
                (product, product_type),
            ));
        }
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        result::stream::begin_capture(stream, mode).unwrap();
        for (pass, algorithm, workspace, made, product) in &outputs {
            let (a, b) = inputs(*pass);
            convolution
                .run(*pass, algorithm, a, b, made.0, *workspace)
                .unwrap();
            cublas
                .run(*pass, &case.convolution, a, b, product.0)
                .unwrap();
        }
        let graph = result::stream::end_capture(stream).unwrap();
        let mut executable = std::ptr::null_mut();
        sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0)
            .result()
            .unwrap();
        let mut small_now = case.small.read(t);
        for sign in [1.0, -2.0] {
            small_now.iter_mut().for_each(|v| *v *= sign);
            result::memcpy_htod_sync(small, &Memory::typed(t, &small_now).bytes()).unwrap();
            result::graph::launch(executable, stream).unwrap();
            result::stream::synchronize(stream).unwrap();
            for (pass, _, _, made, product) in &outputs {
                let factor = if *pass == Pass::Gather { 1.0 } else { sign };
                let expected: Vec<f64> = case.expected(*pass).iter().map(|v| v * factor).collect();
                for (at, t) in [made, product] {
                    let mut bytes = vec![0u8; expected.len() * t.size()];
                    result::memcpy_dtoh_sync(&mut bytes, *at).unwrap();
                    let got = Memory::of(&bytes).read(*t);
                    assert_close(
                        &format!("{pass:?} times {sign}"),
                        &got,
                        &expected,
                        t.tolerance(),
                    );
                }
            }
        }
        drop((convolution, cudnn, cublas));
        for at in memory {
            result::free_sync(at).unwrap();
        }
        sys::cuGraphExecDestroy(executable).result().unwrap();
        sys::cuGraphDestroy(graph).result().unwrap();
        result::stream::destroy(stream).unwrap();
        result::ctx::set_current(std::ptr::null_mut()).unwrap();
        result::primary_ctx::release(device).unwrap();
    }
}

#[test]
fn both_can_be_captured() {
    for seed in ["1", "2", "3"] {
        let folders = [driver::library_folder(), libraries::library_folder()];
        let mut command = driver::command(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "--nocapture"]);
        command.arg("both_run_in_a_captured_graph");
        command.env("LD_LIBRARY_PATH", std::env::join_paths(folders).unwrap());
        let out = command.env("EMULATED_SEED", seed).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(
            out.status.success() && text.contains("test result: ok. 1 passed"),
            "{:?} {text}{}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
        );
    }
}

fn computes(test: &str) {
    let mut child = Child::new();
    cudnn(&child.path("lib/libcudnn.so.9"), &[]);
    cublas(&child.path("lib/libcublas.so.13"), &[]);
    stand_in(&child.path("lib"));
    child.set("LD_LIBRARY_PATH", "lib").passes(test);
}

#[test]
fn cudnn_agrees_with_the_reference() {
    computes("cudnn_convolutions_agree");
}

#[test]
fn cublas_agrees_with_the_reference() {
    computes("cublas_products_agree");
}

#[test]
fn cudnn_and_cublas_tell_what_went_wrong() {
    computes("failures_are_told");
}
