//! The emulated CUDA driver itself: that it orders, refuses and reports as the real one does, or more strictly.
//!
//! The environment is read when the library is loaded, so each case runs in a child process of this executable, which
//! finds the driver as the program does: through cudarc and LD_LIBRARY_PATH.

mod driver;
mod emulation;

use std::ffi::{CString, c_void};
use std::process::{Command, Output};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::CudaContext;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{
    self, CUdeviceptr, CUevent, CUevent_flags, CUevent_wait_flags, CUfunction, CUmodule, CUresult,
    CUstream, CUstreamCaptureMode,
};
use dcgan_cuda::backend::cuda::driver::kernels::KERNELS;

use driver::{STOPPED, UNBALANCED};

const CASE: &str = "EMULATED_DRIVER_CASE";
/// Elements that `self_test_reverse` turns round.
const N: usize = 256;
/// Orders that each race is tried in.
const SEEDS: u64 = 24;

// ---- Child processes

/// What a child runs, by name.
const CASES: &[(&str, fn())] = &[
    ("pipeline", pipeline),
    ("unsynchronised_copy", unsynchronised_copy),
    ("blocking_streams", blocking_streams),
    ("graphs", graphs),
    ("forks", forks),
    ("capture_errors", capture_errors),
    ("poison", poison),
    ("stray_far", stray_far),
    ("stray_near", stray_near),
    ("stray_pinned", stray_pinned),
    ("freed_memory", freed_memory),
    ("host_pointer", host_pointer),
    ("one_element_beyond", one_element_beyond),
    ("leaks", leaks),
    ("double_free", double_free),
    ("wrong_calls", wrong_calls),
    ("failing_launch", failing_launch),
    ("failing_kernel", failing_kernel),
    ("dependent", dependent),
    ("early_read", early_read),
    ("no_wait", no_wait),
    ("dependence_refused", dependence_refused),
    ("device", device),
    ("memory_limit", memory_limit),
    ("early_overwrite", early_overwrite),
    ("free_in_use", free_in_use),
    ("polling", polling),
    ("times", times),
    ("calls", calls),
    ("through_cudarc", through_cudarc),
];

/// The body of a child process; passes at once in any other.
#[test]
fn child() {
    let Ok(name) = std::env::var(CASE) else {
        return;
    };
    let (_, case) = CASES.iter().find(|(n, _)| *n == name).unwrap();
    case();
}

fn as_case(mut command: Command, case: &str, environment: &[(&str, &str)]) -> Output {
    command
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CASE, case)
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn run(case: &str, environment: &[(&str, &str)]) -> Output {
    as_case(
        driver::command(std::env::current_exe().unwrap()),
        case,
        environment,
    )
}

fn run_under_sanitizers(case: &str) -> Output {
    as_case(
        driver::command_under_sanitizers(std::env::current_exe().unwrap()),
        case,
        &[],
    )
}

fn text(out: &Output) -> String {
    format!(
        "{}\n{}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

/// Passes where the case does, and the driver has nothing to say.
fn passes(case: &str, environment: &[(&str, &str)]) {
    let out = run(case, environment);
    let text = text(&out);
    assert!(out.status.success(), "{case} {environment:?}: {text}");
    assert!(text.contains("1 passed"), "{text}");
    assert!(!text.contains("emulated driver: "), "{text}");
}

/// Passes where the case ends with `code` and the driver says all of `messages`.
fn ends(case: &str, environment: &[(&str, &str)], code: i32, messages: &[&str]) {
    let out = run(case, environment);
    let text = text(&out);
    assert_eq!(out.status.code(), Some(code), "{case}: {text}");
    for message in messages {
        let said = text
            .lines()
            .any(|l| l.contains("emulated driver: ") && l.contains(message));
        assert!(said, "{case} does not say {message:?}: {text}");
    }
}

/// In how many of the orders a case fails by its own assertion.
fn failures(case: &str, environment: &[(&str, &str)]) -> u64 {
    (0..SEEDS)
        .filter(|seed| {
            let seed = seed.to_string();
            let mut all = environment.to_vec();
            all.push(("EMULATED_SEED", &seed));
            let out = run(case, &all);
            let text = text(&out);
            if out.status.success() {
                assert!(text.contains("1 passed"), "{text}");
                return false;
            }
            assert!(text.contains("wrong result"), "{case}: {text}");
            true
        })
        .count() as u64
}

// ---- What the cases share

fn code(error: DriverError) -> u32 {
    error.0 as u32
}

/// A fat binary with nothing in it but the word that it has PTX for compute capability 8.0.
fn image() -> Vec<u8> {
    let mut image = Vec::new();
    image.extend(0xba55_ed50_u32.to_le_bytes());
    image.extend(1u16.to_le_bytes());
    image.extend(16u16.to_le_bytes());
    image.extend(64u64.to_le_bytes());
    image.extend(1u16.to_le_bytes());
    image.extend(0x101_u16.to_le_bytes());
    image.extend(64u32.to_le_bytes());
    image.extend(0u64.to_le_bytes());
    image.extend([0; 12]);
    image.extend(80u32.to_le_bytes());
    image.resize(16 + 64, 0);
    image
}

/// A context with two streams and a module, all gone when it is dropped.
struct Gpu {
    device: i32,
    module: CUmodule,
    main: CUstream,
    copy: CUstream,
}

impl Gpu {
    fn new() -> Self {
        result::init().unwrap();
        let device = result::device::get(0).unwrap();
        // SAFETY: the calls are balanced by Drop.
        unsafe {
            result::ctx::set_current(result::primary_ctx::retain(device).unwrap()).unwrap();
            Self {
                device,
                module: result::module::load_data(image().as_ptr().cast()).unwrap(),
                main: stream(),
                copy: stream(),
            }
        }
    }

    fn function(&self, name: &str) -> CUfunction {
        // SAFETY: the module is loaded.
        unsafe { result::module::get_function(self.module, CString::new(name).unwrap()) }.unwrap()
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: each was made by `new`. A lost device answers with its error.
        unsafe {
            let _ = result::stream::destroy(self.main);
            let _ = result::stream::destroy(self.copy);
            let _ = result::module::unload(self.module);
            result::primary_ctx::release(self.device).unwrap();
        }
    }
}

fn stream() -> CUstream {
    result::stream::create(result::stream::StreamKind::NonBlocking).unwrap()
}

fn event() -> CUevent {
    result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap()
}

fn record(event: CUevent, stream: CUstream) {
    // SAFETY: the callers pass live handles, here and below.
    unsafe { result::event::record(event, stream) }.unwrap();
}

fn wait(stream: CUstream, event: CUevent) -> Result<(), DriverError> {
    // SAFETY: see `record`.
    unsafe { result::stream::wait_event(stream, event, CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT) }
}

fn synchronize(stream: CUstream) -> Result<(), DriverError> {
    // SAFETY: see `record`.
    unsafe { result::stream::synchronize(stream) }
}

fn allocate(bytes: usize) -> CUdeviceptr {
    // SAFETY: nothing is read before it is written, except where poison is what is looked for.
    unsafe { result::malloc_sync(bytes) }.unwrap()
}

fn free(pointer: CUdeviceptr) {
    // SAFETY: see `record`.
    unsafe { result::free_sync(pointer) }.unwrap();
}

/// `count` integers of pinned memory.
fn pinned(count: usize) -> &'static mut [i32] {
    // SAFETY: the driver's memory is 256-byte aligned and all of it is poison; it lives until `free_pinned`.
    unsafe {
        let memory = result::malloc_host(4 * count, 0).unwrap();
        std::slice::from_raw_parts_mut(memory.cast(), count)
    }
}

fn free_pinned(memory: &mut [i32]) {
    // SAFETY: it came from `pinned` and is not used any more.
    unsafe { result::free_host(memory.as_mut_ptr().cast()) }.unwrap();
}

fn to_device(to: CUdeviceptr, from: &[i32], stream: CUstream) {
    // SAFETY: see `record`.
    unsafe { result::memcpy_htod_async(to, from, stream) }.unwrap();
}

fn to_host(to: &mut [i32], from: CUdeviceptr, stream: CUstream) {
    // SAFETY: see `record`.
    unsafe { result::memcpy_dtoh_async(to, from, stream) }.unwrap();
}

/// Pointers to the arguments, as cuLaunchKernel takes them.
macro_rules! arguments {
    ($($argument:expr),*) => { &mut [$(ptr::from_ref(&$argument).cast_mut().cast::<c_void>()),*] };
}

fn launch(
    function: CUfunction,
    (blocks, threads): (u32, u32),
    stream: CUstream,
    arguments: &mut [*mut c_void],
) -> Result<(), DriverError> {
    // SAFETY: the arguments are the kernel's.
    unsafe {
        result::launch_kernel(
            function,
            (blocks, 1, 1),
            (threads, 1, 1),
            0,
            stream,
            arguments,
        )
    }
}

/// y = x reversed.
fn reverse(gpu: &Gpu, x: CUdeviceptr, y: CUdeviceptr, stream: CUstream) {
    let function = gpu.function("self_test_reverse");
    launch(function, (1, N as u32), stream, arguments![x, y, 1i32]).unwrap();
}

fn batch(i: usize) -> Vec<i32> {
    (0..N).map(|k| (1000 * i + k) as i32).collect()
}

fn reversed(mut values: Vec<i32>) -> Vec<i32> {
    values.reverse();
    values
}

// ---- Order

/// Batches through two pinned slots and two device slots to a kernel, as training does it.
fn pipeline() {
    let gpu = Gpu::new();
    let slots = [allocate(4 * N), allocate(4 * N)];
    let staging = [pinned(N), pinned(N)];
    let copied = [event(), event()];
    let consumed = [event(), event()];
    let y = allocate(4 * N);
    let results = pinned(8 * N);
    for i in 0..8 {
        let s = i % 2;
        // SAFETY: live handles.
        unsafe { result::event::synchronize(copied[s]) }.unwrap();
        staging[s].copy_from_slice(&batch(i));
        wait(gpu.copy, consumed[s]).unwrap();
        to_device(slots[s], staging[s], gpu.copy);
        record(copied[s], gpu.copy);
        wait(gpu.main, copied[s]).unwrap();
        reverse(&gpu, slots[s], y, gpu.main);
        record(consumed[s], gpu.main);
        to_host(&mut results[i * N..][..N], y, gpu.main);
    }
    synchronize(gpu.main).unwrap();
    for i in 0..8 {
        assert_eq!(
            results[i * N..][..N],
            reversed(batch(i)),
            "wrong result: batch {i}"
        );
    }
    for memory in staging {
        free_pinned(memory);
    }
    free_pinned(results);
    slots.into_iter().chain([y]).for_each(free);
    for event in copied.into_iter().chain(consumed) {
        // SAFETY: live handles.
        unsafe { result::event::destroy(event) }.unwrap();
    }
}

#[test]
fn a_complete_pipeline_is_right_in_every_order() {
    assert_eq!(failures("pipeline", &[]), 0);
}

#[test]
fn every_kind_of_missing_wait_shows() {
    // Waits come in pairs: of the copy for "consumed", of the kernel for "copied".
    for dropped in ["2", "8", "5", "9", "host:3"] {
        let wrong = failures("pipeline", &[("EMULATED_DROP_WAIT", dropped)]);
        eprintln!("without wait {dropped}: wrong in {wrong} of {SEEDS} orders");
        assert!(wrong > 0, "wait {dropped} is not missed");
    }
}

/// A synchronous copy may return before its bytes have arrived, and other streams do not wait for the null stream.
fn unsynchronised_copy() {
    let gpu = Gpu::new();
    let (x, y) = (allocate(4 * N), allocate(4 * N));
    let mut got = vec![0; N];
    // SAFETY: live handles.
    unsafe { result::memcpy_htod_sync(x, &batch(1)) }.unwrap();
    if std::env::var_os("SYNCHRONIZE").is_some() {
        result::ctx::synchronize().unwrap();
    }
    reverse(&gpu, x, y, gpu.main);
    to_host(&mut got, y, gpu.main);
    free(x);
    free(y);
    assert_eq!(got, reversed(batch(1)), "wrong result");
}

#[test]
fn synchronous_copies_order_with_nothing_but_the_null_stream() {
    assert!(failures("unsynchronised_copy", &[]) > 0);
    assert_eq!(failures("unsynchronised_copy", &[("SYNCHRONIZE", "1")]), 0);
}

/// Streams that are not non-blocking do order with the null stream, both ways.
fn blocking_streams() {
    let gpu = Gpu::new();
    let blocking = result::stream::create(result::stream::StreamKind::Default).unwrap();
    let (x, y) = (allocate(4 * N), allocate(4 * N));
    let from = pinned(N);
    from.copy_from_slice(&batch(2));
    let null = result::stream::null();
    to_device(x, from, blocking);
    reverse(&gpu, x, y, null);
    // SAFETY: live handles.
    unsafe { result::memcpy_dtod_async(x, y, 4 * N, blocking) }.unwrap();
    let mut got = vec![0; N];
    to_host(&mut got, x, null);
    assert_eq!(got, reversed(batch(2)), "wrong result");
    free_pinned(from);
    free(x);
    free(y);
    // SAFETY: a live handle.
    unsafe { result::stream::destroy(blocking) }.unwrap();
}

#[test]
fn blocking_streams_order_with_the_null_stream() {
    assert_eq!(failures("blocking_streams", &[]), 0);
}

/// A copy from pinned memory reads it when it runs, one from other memory at once.
fn early_overwrite() {
    let gpu = Gpu::new();
    let (x, y) = (allocate(4 * N), allocate(4 * N));
    let (from, mut other) = (pinned(N), batch(3));
    from.copy_from_slice(&batch(3));
    to_device(x, from, gpu.main);
    to_device(y, &other, gpu.main);
    from.fill(-1);
    other.fill(-1);
    let mut got = vec![0; 2 * N];
    to_host(&mut got[..N], x, gpu.main);
    to_host(&mut got[N..], y, gpu.main);
    assert_eq!(got[..N], vec![-1; N], "read when it was queued");
    assert_eq!(got[N..], batch(3), "not read when it was queued");
    free_pinned(from);
    free(x);
    free(y);
}

#[test]
fn pinned_memory_is_read_late() {
    passes("early_overwrite", &[]);
}

/// Pinned memory is freed under a copy.
fn free_in_use() {
    let gpu = Gpu::new();
    let x = allocate(4 * N);
    let from = pinned(N);
    from.copy_from_slice(&batch(1));
    to_device(x, from, gpu.main);
    free_pinned(from);
    synchronize(gpu.main).unwrap();
    free(x);
}

#[test]
fn freeing_pinned_memory_in_use_is_reported() {
    let message = "cuMemFreeHost: queued work uses the 1024 bytes";
    ends("free_in_use", &[], UNBALANCED, &[message]);
}

/// Whoever polls an event comes to an end, whichever thread it is.
fn polling() {
    let gpu = Gpu::new();
    let (x, y) = (allocate(4 * N), allocate(4 * N));
    let done = event();
    let mut context = ptr::null_mut();
    // SAFETY: live handles; the context is made current in the thread that uses it.
    unsafe {
        sys::cuCtxGetCurrent(&raw mut context).result().unwrap();
        result::memset_d8_async(x, 1, 4 * N, gpu.copy).unwrap();
        reverse(&gpu, x, y, gpu.main);
        assert!(
            result::event::query(done).is_ok(),
            "what was never recorded"
        );
        record(done, gpu.main);
        let (done, context) = (done as usize, context as usize);
        let polls = std::thread::spawn(move || {
            result::ctx::set_current(context as sys::CUcontext).unwrap();
            let mut polls = 0;
            while let Err(error) = result::event::query(done as CUevent) {
                assert_eq!(error.0, CUresult::CUDA_ERROR_NOT_READY);
                polls += 1;
                assert!(polls < 1000);
            }
            polls
        });
        println!("polls: {}", polls.join().unwrap());
        result::event::destroy(done as CUevent).unwrap();
    }
    free(x);
    free(y);
}

#[test]
fn polling_ends_and_is_not_always_ready_at_once() {
    let polls: Vec<u32> = (0..SEEDS)
        .map(|seed| {
            let out = run("polling", &[("EMULATED_SEED", &seed.to_string())]);
            let text = text(&out);
            assert!(out.status.success(), "{text}");
            let (_, polls) = text.split_once("polls: ").unwrap();
            polls.lines().next().unwrap().parse().unwrap()
        })
        .collect();
    assert!(
        polls.contains(&0) && polls.iter().any(|&p| p > 2),
        "{polls:?}"
    );
}

/// Times come from a clock of the emulation's own.
fn times() {
    let gpu = Gpu::new();
    let (x, y) = (allocate(4 * N), allocate(4 * N));
    let timed = || result::event::create(CUevent_flags::CU_EVENT_DEFAULT).unwrap();
    let (start, middle, end, untimed) = (timed(), timed(), timed(), event());
    // SAFETY: live handles.
    unsafe {
        record(start, gpu.main);
        reverse(&gpu, x, y, gpu.main);
        record(middle, gpu.main);
        reverse(&gpu, y, x, gpu.main);
        record(end, gpu.main);
        record(untimed, gpu.main);
        if std::env::var("EMULATED_SEED").is_err() {
            let early = result::event::elapsed(start, end).unwrap_err();
            assert_eq!(early.0, CUresult::CUDA_ERROR_NOT_READY);
        }
        synchronize(gpu.main).unwrap();
        let [first, second, both] = [(start, middle), (middle, end), (start, end)]
            .map(|(a, b)| result::event::elapsed(a, b).unwrap());
        assert!(first > 0.0 && second > 0.0, "{first} {second}");
        assert!((first + second - both).abs() < 1e-6);
        println!("took {both}");
        let error = result::event::elapsed(start, untimed).unwrap_err();
        assert_eq!(error.0, CUresult::CUDA_ERROR_INVALID_HANDLE);
        for event in [start, middle, end, untimed] {
            result::event::destroy(event).unwrap();
        }
    }
    free(x);
    free(y);
}

#[test]
fn times_repeat_with_the_seed() {
    let took = |seed| {
        let out = run("times", &[("EMULATED_SEED", seed)]);
        let text = text(&out);
        assert!(out.status.success(), "{text}");
        let (_, time) = text.split_once("took ").unwrap();
        time.lines().next().unwrap().to_owned()
    };
    assert_eq!(took("5"), took("5"));
    assert_ne!(took("5"), took("6"));
    // One message: an event that does not take the time.
    ends("times", &[], 0, &["cuEventElapsedTime"]);
}

// ---- Graphs

fn capture(stream: CUstream) {
    // SAFETY: see `record`.
    unsafe {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        result::stream::begin_capture(stream, mode).unwrap();
    }
}

/// Kernels, copies, a memset and an event of its own in a graph, replayed.
fn graphs() {
    let gpu = Gpu::new();
    let [x, y, z] = [(); 3].map(|()| allocate(4 * N));
    let input = pinned(N);
    let output = pinned(2 * N);
    let inside = event();
    // SAFETY: live handles.
    unsafe {
        capture(gpu.main);
        to_device(x, input, gpu.main);
        reverse(&gpu, x, y, gpu.main);
        record(inside, gpu.main);
        wait(gpu.main, inside).unwrap();
        result::memset_d8_async(x, 0, 4 * N, gpu.main).unwrap();
        result::memcpy_dtod_async(z, y, 4 * N, gpu.main).unwrap();
        to_host(&mut output[..N], z, gpu.main);
        to_host(&mut output[N..], x, gpu.main);
        let graph = result::stream::end_capture(gpu.main).unwrap();
        assert!(output.iter().all(|&v| v == -1), "ran while captured");
        let mut nodes = 0;
        sys::cuGraphGetNodes(graph, ptr::null_mut(), &raw mut nodes)
            .result()
            .unwrap();
        assert_eq!(nodes, 6);
        let flags = sys::CUgraphInstantiate_flags(0);
        let executable = result::graph::instantiate(graph, flags).unwrap();
        result::graph::destroy(graph).unwrap();
        result::graph::upload(executable, gpu.main).unwrap();
        for i in 0..4 {
            input.copy_from_slice(&batch(i));
            result::graph::launch(executable, gpu.main).unwrap();
            // Beside itself it does not run.
            result::graph::launch(executable, gpu.copy).unwrap();
            synchronize(gpu.copy).unwrap();
            assert_eq!(output[..N], reversed(batch(i)), "wrong result");
            assert_eq!(output[N..], vec![0; N], "wrong result");
        }
        result::graph::exec_destroy(executable).unwrap();
        result::event::destroy(inside).unwrap();
    }
    [x, y, z].into_iter().for_each(free);
    free_pinned(input);
    free_pinned(output);
}

#[test]
fn graphs_replay_in_every_order() {
    assert_eq!(failures("graphs", &[]), 0);
    passes("graphs", &[]);
}

/// A graph with a fork that ends twice: for what it has read, and for what it has made.
fn forks() {
    let gpu = Gpu::new();
    let [x, y, z, w, v] = [(); 5].map(|()| allocate(4 * N));
    let input = pinned(N);
    let output = pinned(2 * N);
    let [begun, read, made] = [(); 3].map(|()| event());
    // SAFETY: live handles.
    unsafe {
        capture(gpu.main);
        to_device(x, input, gpu.main);
        reverse(&gpu, x, y, gpu.main);
        record(begun, gpu.main);
        wait(gpu.copy, begun).unwrap();
        result::memcpy_dtod_async(z, y, 4 * N, gpu.copy).unwrap();
        record(read, gpu.copy);
        reverse(&gpu, z, w, gpu.copy);
        record(made, gpu.copy);
        result::memcpy_dtod_async(v, y, 4 * N, gpu.main).unwrap();
        wait(gpu.main, read).expect("wrong result: no fork");
        result::memset_d8_async(y, 0, 4 * N, gpu.main).unwrap();
        wait(gpu.main, made).unwrap();
        to_host(&mut output[..N], v, gpu.main);
        to_host(&mut output[N..], w, gpu.main);
        let graph = result::stream::end_capture(gpu.main).expect("wrong result: no join");
        let flags = sys::CUgraphInstantiate_flags(0);
        let executable = result::graph::instantiate(graph, flags).unwrap();
        result::graph::destroy(graph).unwrap();
        for i in 0..4 {
            input.copy_from_slice(&batch(i));
            result::graph::launch(executable, gpu.main).unwrap();
            synchronize(gpu.main).unwrap();
            assert_eq!(output[..N], reversed(batch(i)), "wrong result");
            assert_eq!(output[N..], batch(i), "wrong result");
        }
        result::graph::exec_destroy(executable).unwrap();
        for event in [begun, read, made] {
            result::event::destroy(event).unwrap();
        }
    }
    [x, y, z, w, v].into_iter().for_each(free);
    free_pinned(input);
    free_pinned(output);
}

#[test]
fn forks_of_a_graph_run_in_every_order() {
    assert_eq!(failures("forks", &[]), 0);
    passes("forks", &[]);
}

#[test]
fn a_missing_edge_of_a_graph_shows() {
    for dropped in ["1", "2", "3"] {
        let wrong = failures("forks", &[("EMULATED_DROP_WAIT", dropped)]);
        eprintln!("without wait {dropped}: wrong in {wrong} of {SEEDS} orders");
        // The second one is an edge; without the others the fork is none, and is refused.
        let all = if dropped == "2" {
            1..SEEDS
        } else {
            SEEDS..SEEDS + 1
        };
        assert!(all.contains(&wrong), "wait {dropped}: {wrong}");
    }
}

/// What must not be done while a stream is captured, and what the driver answers.
fn capture_errors() {
    let gpu = Gpu::new();
    let x = allocate(4 * N);
    let outside = event();
    record(outside, gpu.copy);
    synchronize(gpu.copy).unwrap();
    // SAFETY: live handles.
    unsafe {
        let end = || result::stream::end_capture(gpu.main).map(|_| ());
        let refused = |what: &str, want: u32, got: Result<(), DriverError>| {
            assert_eq!(got.map_err(code), Err(want), "{what}");
            let status = result::stream::is_capturing(gpu.main).unwrap();
            assert_eq!(
                status,
                sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED,
                "{what}"
            );
            let more = result::memset_d8_async(x, 0, 4, gpu.main);
            assert_eq!(more.map_err(code), Err(901), "{what}: goes on");
            assert_eq!(end().map_err(code), Err(901), "{what}: ends well");
        };
        assert_eq!(end().map_err(code), Err(401), "nothing is captured");
        capture(gpu.main);
        refused("synchronize", 900, synchronize(gpu.main));
        capture(gpu.main);
        refused("synchronize another stream", 900, synchronize(gpu.copy));
        capture(gpu.main);
        refused("synchronize the context", 900, result::ctx::synchronize());
        capture(gpu.main);
        refused("allocate", 900, result::malloc_sync(4).map(|_| ()));
        capture(gpu.main);
        refused(
            "allocate pinned memory",
            900,
            result::malloc_host(4, 0).map(|_| ()),
        );
        capture(gpu.main);
        refused("free", 900, result::free_sync(x));
        capture(gpu.main);
        refused("query an event", 900, result::event::query(outside));
        capture(gpu.main);
        refused(
            "wait for an event",
            900,
            result::event::synchronize(outside),
        );
        capture(gpu.main);
        refused("wait on another stream", 905, wait(gpu.main, outside));
        capture(gpu.main);
        refused("a synchronous copy", 900, result::memcpy_htod_sync(x, &[1]));
        capture(gpu.main);
        refused(
            "a copy from pageable memory",
            900,
            result::memcpy_htod_async(x, &[1], gpu.main),
        );
        capture(gpu.main);
        record(outside, gpu.main);
        let null = wait(result::stream::null(), outside);
        refused("join with the null stream", 900, null);
        let captured = wait(gpu.copy, outside);
        assert_eq!(captured.map_err(code), Err(907));
        let captured = result::event::query(outside);
        assert_eq!(captured.map_err(code), Err(907));
        let null = result::stream::begin_capture(
            result::stream::null(),
            CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
        );
        assert_eq!(null.map_err(code), Err(900), "the null stream");
        capture(gpu.main);
        record(outside, gpu.main);
        wait(gpu.copy, outside).unwrap();
        let elsewhere = result::stream::end_capture(gpu.copy).map(|_| ());
        assert_eq!(elsewhere.map_err(code), Err(903), "ends in a fork");
        result::memset_d8_async(x, 0, 4, gpu.copy).unwrap();
        assert_eq!(end().map_err(code), Err(904), "a fork does not join");
        synchronize(gpu.copy).unwrap();
        // From another thread.
        capture(gpu.main);
        let (stream, mut context) = (gpu.main as usize, ptr::null_mut());
        sys::cuCtxGetCurrent(&raw mut context).result().unwrap();
        let context = context as usize;
        let other = std::thread::spawn(move || {
            result::ctx::set_current(context as sys::CUcontext).unwrap();
            // Thread-local: what another thread does is its own affair.
            let memory = result::malloc_sync(4).unwrap();
            result::free_sync(memory).unwrap();
            result::stream::end_capture(stream as CUstream).map(|_| ())
        });
        assert_eq!(other.join().unwrap().map_err(code), Err(908));
        let graph = result::stream::end_capture(gpu.main).unwrap();
        result::graph::destroy(graph).unwrap();
        result::event::destroy(outside).unwrap();
    }
    free(x);
}

#[test]
fn misuse_of_a_capture_is_refused() {
    ends("capture_errors", &[], 0, &["while stream 1 is captured"]);
}

// ---- Memory

fn poison() {
    let _gpu = Gpu::new();
    let memory = allocate(1000);
    assert_eq!(memory % 256, 0);
    let host = pinned(100);
    let mut got = vec![0u8; 1000];
    // SAFETY: poison is what is looked for.
    unsafe {
        result::memcpy_dtoh_sync(&mut got, memory).unwrap();
        assert!(got.iter().all(|&b| b == 0xff));
        assert!(host.iter().all(|&v| v == -1));
        // Freed, and the next one at the same size, is poison again, elsewhere.
        result::memset_d8_sync(memory, 0, 1000).unwrap();
        free(memory);
        let again = allocate(1000);
        assert_ne!(again, memory);
        result::memcpy_dtoh_sync(&mut got, again).unwrap();
        assert!(got.iter().all(|&b| b == 0xff));
        free(again);
    }
    free_pinned(host);
}

#[test]
fn fresh_memory_is_poison() {
    passes("poison", &[]);
}

/// y = f(x) of `count` elements of 4 bytes, whether they are there or not.
fn leaky_relu(gpu: &Gpu, x: CUdeviceptr, y: CUdeviceptr, count: u64) {
    let blocks = count.div_ceil(1024) as u32;
    let function = gpu.function("leaky_relu_forward_nhwc_f32");
    launch(function, (blocks, 256), gpu.main, arguments![x, y, count]).unwrap();
}

fn stray_far() {
    let gpu = Gpu::new();
    let (x, y) = (allocate(1 << 16), allocate(4000));
    leaky_relu(&gpu, x, y, 1 << 14);
    synchronize(gpu.main).unwrap();
    unreachable!("the process has ended");
}

fn stray_near() {
    let gpu = Gpu::new();
    let (x, y) = (allocate(4096), allocate(4000));
    leaky_relu(&gpu, x, y, 1001);
    synchronize(gpu.main).unwrap();
    unreachable!("the process has ended");
}

fn stray_pinned() {
    let _gpu = Gpu::new();
    let memory = pinned(1024);
    free_pinned(memory);
    // SAFETY: none; it is gone, which is what the test is about.
    let value = unsafe { ptr::read_volatile(memory.as_ptr()) };
    unreachable!("the process has ended, but {value}");
}

fn freed_memory() {
    let gpu = Gpu::new();
    let (x, y) = (allocate(4 * N), allocate(4 * N));
    free(y);
    leaky_relu(&gpu, x, y, N as u64);
    unreachable!("the process has ended");
}

fn host_pointer() {
    let gpu = Gpu::new();
    let x = vec![1f32; N];
    let y = allocate(4 * N);
    leaky_relu(&gpu, x.as_ptr() as u64, y, N as u64);
    unreachable!("the process has ended");
}

#[test]
fn stray_accesses_end_the_process() {
    let message = "leaky_relu_forward_nhwc_f32, block (5, 0, 0), accesses";
    let place = "behind the end of an allocation of 4000 bytes of device memory (argument 1)";
    ends("stray_far", &[], STOPPED, &[message, place]);
    ends(
        "stray_near",
        &[],
        STOPPED,
        &["leaky_relu_forward_nhwc_f32 wrote behind the end of an allocation of 4000 bytes"],
    );
    ends(
        "stray_pinned",
        &[],
        STOPPED,
        &[
            "the host accesses",
            "byte 0 of an allocation of 4096 bytes of pinned memory, which has been freed",
        ],
    );
    for case in ["freed_memory", "host_pointer"] {
        let message = "leaky_relu_forward_nhwc_f32: argument";
        ends(
            case,
            &[],
            STOPPED,
            &[message, "does not point to allocated memory"],
        );
    }
}

/// Reads one element too many, which only a sanitizer sees.
fn one_element_beyond() {
    let gpu = Gpu::new();
    let (x, y) = (allocate(4 * N), allocate(4 * N));
    let function = gpu.function("self_test_read");
    launch(function, (1, 32), gpu.main, arguments![x, y, N as i32]).unwrap();
    synchronize(gpu.main).unwrap();
    free(x);
    free(y);
}

#[test]
fn sanitizers_see_a_single_element() {
    let out = run_under_sanitizers("one_element_beyond");
    let text = text(&out);
    assert!(!out.status.success(), "{text}");
    assert!(
        text.contains("ERROR: AddressSanitizer: heap-buffer-overflow"),
        "{text}"
    );
    assert!(
        text.contains("emulated driver: the sanitizer's report is about self_test_read"),
        "{text}"
    );
    for case in ["pipeline", "graphs"] {
        let out = run_under_sanitizers(case);
        assert!(out.status.success(), "{case}: {}", self::text(&out));
    }
}

fn memory_limit() {
    let _gpu = Gpu::new();
    let total = 1 << 20;
    assert_eq!(result::mem_get_info().unwrap(), (total, total));
    let first = allocate(total - 1000);
    assert_eq!(result::mem_get_info().unwrap(), (768, total));
    // SAFETY: refused.
    let error = unsafe { result::malloc_sync(769) }.unwrap_err();
    assert_eq!(error.0, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    let second = allocate(700);
    assert_eq!(result::mem_get_info().unwrap(), (0, total));
    // Not the device's.
    free_pinned(pinned(1000));
    free(first);
    free(second);
    assert_eq!(result::mem_get_info().unwrap(), (total, total));
}

#[test]
fn memory_runs_out() {
    passes("memory_limit", &[("EMULATED_MEMORY", "1048576")]);
}

// ---- Balance

/// One of each, and nothing destroyed.
fn leaks() {
    let gpu = Gpu::new();
    allocate(100);
    allocate(200);
    pinned(10);
    event();
    capture(gpu.main);
    // SAFETY: live handles.
    unsafe {
        let graph = result::stream::end_capture(gpu.main).unwrap();
        let flags = sys::CUgraphInstantiate_flags(0);
        result::graph::instantiate(graph, flags).unwrap();
    }
    std::mem::forget(gpu);
}

#[test]
fn leaks_are_reported() {
    let messages = [
        "leaked 2 allocations of device memory, 300 bytes",
        "leaked 1 allocations of pinned memory, 40 bytes",
        "leaked 2 streams",
        "leaked 1 events",
        "leaked 1 modules",
        "leaked 1 graphs",
        "leaked 1 executable graphs",
        "primary context of device 0: retained 1 times more than released",
    ];
    ends("leaks", &[], UNBALANCED, &messages);
    ends("leaks", &[("EMULATED_STRICT", "0")], 0, &messages);
}

fn double_free() {
    let gpu = Gpu::new();
    let (x, done) = (allocate(100), event());
    let host = pinned(1);
    let graph = ptr::null_mut();
    // SAFETY: refused where it is done twice.
    unsafe {
        free(x);
        assert_eq!(result::free_sync(x).map_err(code), Err(1));
        let inside = allocate(100);
        assert_eq!(result::free_sync(inside + 4).map_err(code), Err(1));
        free(inside);
        result::free_host(host.as_mut_ptr().cast()).unwrap();
        let again = result::free_host(host.as_mut_ptr().cast());
        assert_eq!(again.map_err(code), Err(1));
        result::event::destroy(done).unwrap();
        assert_eq!(result::event::destroy(done).map_err(code), Err(400));
        assert_eq!(result::graph::destroy(graph).map_err(code), Err(400));
        let copy = gpu.copy;
        drop(gpu);
        assert_eq!(result::stream::destroy(copy).map_err(code), Err(400));
        let released = result::primary_ctx::release(0);
        assert_eq!(released.map_err(code), Err(201));
    }
}

#[test]
fn what_is_destroyed_twice_is_reported() {
    let messages = [
        "is not the start of a live allocation of device memory",
        "is not the start of a live allocation of pinned memory",
        "is no event",
        "is no graph",
        "is no stream",
        "primary context of device 0 released more often than retained",
    ];
    ends("double_free", &[], UNBALANCED, &messages);
}

// ---- Errors

/// Calls that the driver refuses, without further harm.
fn wrong_calls() {
    let gpu = Gpu::new();
    let (x, y) = (allocate(100), allocate(100));
    let host = pinned(10);
    let null = result::stream::null();
    // SAFETY: refused.
    unsafe {
        let code_of = |got: Result<(), DriverError>| got.map_err(code).unwrap_err();
        assert_eq!(code_of(result::memcpy_htod_async(x, &[0u8; 101], null)), 1);
        assert_eq!(
            code_of(result::memcpy_htod_async(x + 90, &[0u8; 11], null)),
            1
        );
        assert_eq!(code_of(result::memcpy_dtod_async(x, y, 101, null)), 1);
        assert_eq!(code_of(result::memset_d8_async(x, 0, 101, null)), 1);
        let beyond = std::slice::from_raw_parts_mut(host.as_mut_ptr(), 11);
        assert_eq!(code_of(result::memcpy_dtoh_sync(beyond, x)), 1);
        let device = std::slice::from_raw_parts(y as *const u8, 10);
        assert_eq!(code_of(result::memcpy_htod_sync(x, device)), 1);
        let unknown = CString::new("conv3d").unwrap();
        let unknown = result::module::get_function(gpu.module, unknown);
        assert_eq!(code_of(unknown.map(|_| ())), 500);
        let bad = result::module::load_data([0u8; 64].as_ptr().cast());
        assert_eq!(code_of(bad.map(|_| ())), 200);
        assert_eq!(code_of(result::malloc_sync(0).map(|_| ())), 1);
        let pool = result::malloc_async(null, 4);
        assert_eq!(code_of(pool.map(|_| ())), 801);
        let f = gpu.function("leaky_relu_forward_nhwc_f32");
        let launch = |shape, want| {
            let got = launch(f, shape, gpu.main, arguments![x, y, 1u64]);
            assert_eq!(code_of(got), want, "{shape:?}");
        };
        launch((0, 256), 1);
        launch((1, 2048), 1);
        launch((1, 512), 701);
        launch((1, 48), 1);
        let no_arguments = sys::cuLaunchKernel(
            f,
            1,
            1,
            1,
            256,
            1,
            1,
            0,
            gpu.main,
            ptr::null_mut(),
            ptr::null_mut(),
        );
        assert_eq!(no_arguments as u32, 1);
        let args: &mut [*mut c_void] = arguments![x, y, 1u64];
        let shared = result::launch_kernel(f, (1, 1, 1), (256, 1, 1), 64 << 10, gpu.main, args);
        assert_eq!(code_of(shared), 1);
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        result::function::set_function_attribute(f, attribute, 64 << 10).unwrap();
        result::memset_d8_async(x, 0, 4, gpu.main).unwrap();
        result::launch_kernel(f, (1, 1, 1), (256, 1, 1), 64 << 10, gpu.main, args).unwrap();
        synchronize(gpu.main).unwrap();
        assert_eq!(code_of(synchronize(x as CUstream)), 400);
        // Without a context.
        std::thread::spawn(move || {
            let error = result::malloc_sync(4).unwrap_err();
            assert_eq!(error.0, CUresult::CUDA_ERROR_INVALID_CONTEXT);
        })
        .join()
        .unwrap();
    }
    free(x);
    free(y);
    free_pinned(host);
}

#[test]
fn wrong_calls_are_refused() {
    let messages = [
        "101 bytes at",
        "leave their pinned allocation",
        "is device memory, not the host's",
        "there is no kernel conv3d",
        "neither a fat binary nor an ELF file",
        "512 threads a block exceed its launch bound, 256",
    ];
    ends("wrong_calls", &[], 0, &messages);
}

/// The third launch takes the device with it.
fn failing_launch() {
    let gpu = Gpu::new();
    let (x, y) = (allocate(4 * N), allocate(4 * N));
    let done = event();
    for _ in 0..2 {
        reverse(&gpu, x, y, gpu.main);
    }
    synchronize(gpu.main).unwrap();
    reverse(&gpu, x, y, gpu.main);
    record(done, gpu.main);
    let want = std::env::var("WANT").unwrap().parse().unwrap();
    // SAFETY: live handles.
    unsafe {
        assert_eq!(synchronize(gpu.main).map_err(code), Err(want));
        // From now on, everything.
        assert_eq!(result::event::query(done).map_err(code), Err(want));
        assert_eq!(result::mem_get_info().map_err(code), Err(want));
        assert_eq!(result::malloc_sync(4).map_err(code), Err(want));
        let more = result::memset_d8_async(x, 0, 4, gpu.main);
        assert_eq!(more.map_err(code), Err(want));
        assert_eq!(result::free_sync(x).map_err(code), Err(want));
        assert_eq!(result::free_sync(y).map_err(code), Err(want));
        assert_eq!(result::event::destroy(done).map_err(code), Err(want));
    }
}

#[test]
fn a_failing_launch_takes_the_device_with_it() {
    for code in ["700", "719", "214", "999"] {
        let fail = format!("launch:3:{code}");
        let environment = [("EMULATED_FAIL", fail.as_str()), ("WANT", code)];
        let message = "launch 3, self_test_reverse, fails as asked for";
        ends("failing_launch", &environment, 0, &[message]);
    }
}

/// A kernel that the emulation ends.
fn failing_kernel() {
    let gpu = Gpu::new();
    let y = allocate(4 * N);
    let function = gpu.function("self_test_exit_before_barrier");
    launch(function, (1, 256), gpu.main, arguments![y]).unwrap();
    assert_eq!(synchronize(gpu.main).map_err(code), Err(719));
    // SAFETY: freed all the same.
    assert_eq!(unsafe { result::free_sync(y) }.map_err(code), Err(719));
}

#[test]
fn a_failing_kernel_says_why() {
    let message = "self_test_exit_before_barrier: thread";
    ends("failing_kernel", &[], 0, &[message]);
}

/// y = x + 1, launched so that it may begin before the kernel before it has ended.
fn follow(
    gpu: &Gpu,
    x: CUdeviceptr,
    y: CUdeviceptr,
    mode: i32,
    allowed: i32,
) -> Result<(), DriverError> {
    let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
    value.programmaticStreamSerializationAllowed = allowed;
    let mut attribute = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value,
    };
    let config = sys::CUlaunchConfig {
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: N as u32,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: gpu.main,
        attrs: &raw mut attribute,
        numAttrs: 1,
    };
    let function = gpu.function("self_test_follow");
    let arguments: &mut [*mut c_void; 3] = arguments![x, y, mode];
    // SAFETY: the arguments are the kernel's.
    unsafe {
        let (arguments, none) = (arguments.as_mut_ptr(), ptr::null_mut());
        sys::cuLaunchKernelEx(&raw const config, function, arguments, none).result()
    }
}

/// A chain of launches that each may begin early, as streams and as a graph.
fn dependent() {
    let gpu = Gpu::new();
    let [x, y] = [(); 2].map(|()| allocate(4 * N));
    let input = pinned(N);
    let output = pinned(N);
    let chain = |input: &[i32], output: &mut [i32]| {
        to_device(x, input, gpu.main);
        reverse(&gpu, x, y, gpu.main);
        for _ in 0..20 {
            follow(&gpu, y, x, 0, 1).unwrap();
            follow(&gpu, x, y, 0, 1).unwrap();
        }
        to_host(output, y, gpu.main);
    };
    for i in 0..2 {
        input.copy_from_slice(&batch(i));
        match i {
            0 => chain(input, output),
            // SAFETY: live handles.
            _ => unsafe {
                capture(gpu.main);
                chain(input, output);
                let graph = result::stream::end_capture(gpu.main).unwrap();
                let flags = sys::CUgraphInstantiate_flags(0);
                let executable = result::graph::instantiate(graph, flags).unwrap();
                result::graph::destroy(graph).unwrap();
                result::graph::launch(executable, gpu.main).unwrap();
                synchronize(gpu.main).unwrap();
                result::graph::exec_destroy(executable).unwrap();
            },
        }
        synchronize(gpu.main).unwrap();
        let want: Vec<i32> = reversed(batch(i)).iter().map(|v| v + 40).collect();
        assert_eq!(output[..], want, "wrong result");
    }
    [x, y].into_iter().for_each(free);
    free_pinned(input);
    free_pinned(output);
}

/// Also where the attribute is there and says no, a kernel need not wait.
fn mistaken(mode: i32) -> Result<(), DriverError> {
    let gpu = Gpu::new();
    let [x, y] = [(); 2].map(|()| allocate(4 * N));
    let input = pinned(N);
    to_device(x, input, gpu.main);
    follow(&gpu, x, y, mode, 0)?;
    synchronize(gpu.main)?;
    follow(&gpu, x, y, mode, 1)?;
    synchronize(gpu.main)
}

fn early_read() {
    mistaken(1).unwrap();
    unreachable!("the process has ended");
}

fn no_wait() {
    assert_eq!(mistaken(2).map_err(code), Err(719));
}

fn dependence_refused() {
    let gpu = Gpu::new();
    let x = allocate(4 * N);
    assert_eq!(follow(&gpu, x, x, 0, 1).map_err(code), Err(801));
    follow(&gpu, x, x, 0, 0).unwrap();
    synchronize(gpu.main).unwrap();
    free(x);
}

#[test]
fn kernels_may_begin_early_and_wait() {
    assert_eq!(failures("dependent", &[]), 0);
    passes("dependent", &[]);
}

#[test]
fn what_a_kernel_does_before_it_waits_is_watched() {
    let early = "before it has waited for the kernel before it: byte 800 of";
    ends("early_read", &[], driver::STOPPED, &[early]);
    let never = "self_test_follow: thread 200 ends and has not waited for the kernel before it";
    let environment = [("EMULATED_STRICT", "0")];
    ends("no_wait", &environment, 0, &[never]);
    let older = [("EMULATED_COMPUTE_CAPABILITY", "8.9")];
    ends(
        "dependence_refused",
        &older,
        0,
        &["needs compute capability 9.0"],
    );
}

/// What the device says of itself, and whether it can be had at all.
fn device() {
    let want = |name: &str| std::env::var(name).unwrap();
    if let Err(error) = result::init() {
        assert_eq!(code(error).to_string(), want("WANT_INIT"));
        return;
    }
    let mut version = 0;
    // SAFETY: plain outputs.
    unsafe {
        sys::cuDriverGetVersion(&raw mut version).result().unwrap();
        assert_eq!(version.to_string(), want("EMULATED_DRIVER_VERSION"));
        let count = result::device::get_count().unwrap();
        assert_eq!(count.to_string(), want("EMULATED_DEVICES"));
        let device = result::device::get(count - 1).unwrap();
        assert_eq!(result::device::get(count).map_err(code), Err(101));
        let name = result::device::get_name(device).unwrap();
        assert_eq!(name, want("EMULATED_NAME"));
        use sys::CUdevice_attribute as A;
        let attribute = |a| result::device::get_attribute(device, a).unwrap();
        let major = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
        let minor = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
        assert_eq!(
            format!("{major}.{minor}"),
            want("EMULATED_COMPUTE_CAPABILITY")
        );
        result::ctx::set_current(result::primary_ctx::retain(device).unwrap()).unwrap();
        let loaded = result::module::load_data(image().as_ptr().cast());
        assert_eq!(loaded.map_err(code), Err(209), "code for 8.0");
        result::primary_ctx::release(device).unwrap();
    }
}

#[test]
fn the_environment_says_what_the_device_is_like() {
    let environment = [
        ("EMULATED_DRIVER_VERSION", "12040"),
        ("EMULATED_DEVICES", "3"),
        ("EMULATED_NAME", "An Old Card"),
        ("EMULATED_COMPUTE_CAPABILITY", "7.5"),
    ];
    let message = "nothing for compute capability 7.5";
    ends("device", &environment, 0, &[message]);
    let none = [("EMULATED_DEVICES", "0"), ("WANT_INIT", "100")];
    passes("device", &none);
    let mismatch = [("EMULATED_INIT_ERROR", "803"), ("WANT_INIT", "803")];
    passes("device", &mismatch);
}

#[test]
fn a_mistake_that_does_not_come_about_is_reported() {
    for (name, value) in [
        ("EMULATED_DROP_WAIT", "1000"),
        ("EMULATED_DROP_WAIT", "host:1000"),
        ("EMULATED_FAIL", "launch:1000:719"),
        ("EMULATED_FAIL", "capture:1000:900"),
        ("EMULATED_SWAP_ARGUMENTS", "self_test_sum:0:1"),
    ] {
        ends(
            "pipeline",
            &[(name, value)],
            UNBALANCED,
            &["has not come about"],
        );
    }
}

// ---- Other libraries

/// What emulated cuDNN and cuBLAS queue.
fn calls() {
    extern "C" fn add(data: *mut c_void) {
        // SAFETY: what is queued below.
        unsafe {
            let (target, value) = *data.cast::<(*mut i32, i32)>();
            *target += value;
        }
    }
    type Enqueue =
        unsafe extern "C" fn(CUstream, extern "C" fn(*mut c_void), *const c_void, usize) -> i32;
    let gpu = Gpu::new();
    let x = allocate(4);
    let host = pinned(1);
    // SAFETY: the signatures are those of driver.cpp.
    unsafe {
        let library = libloading::Library::new("libcuda.so").unwrap();
        let enqueue = library.get::<Enqueue>(b"emulated_enqueue").unwrap();
        let check = library
            .get::<unsafe extern "C" fn(u64, usize) -> i32>(b"emulated_check")
            .unwrap();
        assert_eq!(check(x, 4), 0);
        assert_ne!(check(x, 5), 0);
        let queue = |value: i32| {
            let data = (x as *mut i32, value);
            let bytes = size_of_val(&data);
            assert_eq!(
                enqueue(gpu.main, add, ptr::from_ref(&data).cast(), bytes),
                0
            );
        };
        result::memset_d8_async(x, 0, 4, gpu.main).unwrap();
        queue(3);
        capture(gpu.main);
        queue(10);
        let graph = result::stream::end_capture(gpu.main).unwrap();
        let flags = sys::CUgraphInstantiate_flags(0);
        let executable = result::graph::instantiate(graph, flags).unwrap();
        result::graph::launch(executable, gpu.main).unwrap();
        result::graph::launch(executable, gpu.main).unwrap();
        to_host(host, x, gpu.main);
        synchronize(gpu.main).unwrap();
        assert_eq!(host[0], 23);
        result::graph::exec_destroy(executable).unwrap();
        result::graph::destroy(graph).unwrap();
        free(x);
    }
    free_pinned(host);
}

#[test]
fn other_libraries_queue_their_work() {
    passes("calls", &[]);
}

// ---- As the program does

/// Context, streams, events, pinned memory, the embedded module, a captured launch and its replays.
fn through_cudarc() {
    let context = CudaContext::new(0).unwrap();
    // SAFETY: dependencies are this function's own.
    unsafe { context.disable_event_tracking() };
    let main = context.new_stream().unwrap();
    let copy = context.new_stream().unwrap();
    let kernel = KERNELS.iter().find(|k| k.name == "activation").unwrap();
    // SAFETY: unloaded below, when the streams are done.
    let (module, function) = unsafe {
        let module = result::module::load_data(kernel.fatbin.as_ptr().cast()).unwrap();
        if std::env::var_os("WRONG_MODULE").is_some() {
            let other = CString::new("adam_check").unwrap();
            let found = result::module::get_function(module, other);
            assert_eq!(found.map_err(code).unwrap_err(), 500);
        }
        let name = CString::new("leaky_relu_forward_nhwc_f32").unwrap();
        (module, result::module::get_function(module, name).unwrap())
    };
    const COUNT: usize = 1500;
    let (x, y) = (allocate(4 * COUNT), allocate(4 * COUNT));
    let count = COUNT as u64;
    // SAFETY: written before it is read.
    let mut input = unsafe { context.alloc_pinned::<f32>(COUNT) }.unwrap();
    let mut output = unsafe { context.alloc_pinned::<f32>(COUNT) }.unwrap();
    main.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    launch(
        function,
        (2, 256),
        main.cu_stream(),
        arguments![x, y, count],
    )
    .unwrap();
    let graph = main
        .end_capture(sys::CUgraphInstantiate_flags(0))
        .unwrap()
        .unwrap();
    let copied = context.new_event(None).unwrap();
    for iteration in 0..3 {
        let value = |i: usize| i as f32 - 700.0 - iteration as f32;
        for (i, v) in input.as_mut_slice().unwrap().iter_mut().enumerate() {
            *v = value(i);
        }
        // SAFETY: the slices live until the streams are synchronised.
        unsafe {
            let from = input.as_slice().unwrap();
            result::memcpy_htod_async(x, from, copy.cu_stream()).unwrap();
            copied.record(&copy).unwrap();
            main.wait(&copied).unwrap();
            graph.launch().unwrap();
            let to = output.as_mut_slice().unwrap();
            result::memcpy_dtoh_async(to, y, main.cu_stream()).unwrap();
        }
        main.synchronize().unwrap();
        for (i, &got) in output.as_slice().unwrap().iter().enumerate() {
            let v = value(i);
            let want = if v < 0.0 { 0.2 * v } else { v };
            assert_eq!(got, want, "wrong result");
        }
    }
    free(x);
    free(y);
    // SAFETY: as above.
    unsafe { result::module::unload(module) }.unwrap();
    drop((input, output, graph, copied, main, copy));
    assert_eq!(Arc::strong_count(&context), 1);
}

#[test]
fn the_program_s_own_way_through_cudarc() {
    if KERNELS.is_empty() {
        eprintln!("SKIPPED: built without nvcc, run scripts/bootstrap first");
        return;
    }
    assert_eq!(failures("through_cudarc", &[]), 0);
    passes("through_cudarc", &[]);
    let message = "adam_check is not in the module of activation.cu, but of adam.cu";
    ends("through_cudarc", &[("WRONG_MODULE", "1")], 0, &[message]);
    // Deliberate mistakes.
    let swapped = ("EMULATED_SWAP_ARGUMENTS", "leaky_relu_forward_nhwc_f32:0:1");
    assert_eq!(failures("through_cudarc", &[swapped]), SEEDS);
    let dropped = ("EMULATED_DROP_WAIT", "1");
    assert!(failures("through_cudarc", &[dropped]) > 0);
}

#[test]
fn the_trace_lists_what_ran() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace");
    passes("graphs", &[("EMULATED_TRACE", path.to_str().unwrap())]);
    let trace = std::fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = trace.lines().collect();
    let count = |line: &str| lines.iter().filter(|l| **l == line).count();
    assert_eq!(count("1 graph graph"), 4, "{trace}");
    assert_eq!(count("2 graph graph"), 4, "{trace}");
    assert_eq!(count("1 kernel self_test_reverse 1,1,1 256"), 4, "{trace}");
    assert_eq!(count("1 copy cuMemcpyDtoDAsync"), 4, "{trace}");
}
