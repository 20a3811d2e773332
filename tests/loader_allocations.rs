//! Batches are handed out without a single allocation. Alone in its file: the allocator counts for the whole process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use dcgan_cuda::backend::{Batch, Images};
use dcgan_cuda::data::pack::{Choice, Recipe};
use dcgan_cuda::data::prepare::{Place, Request};
use dcgan_cuda::data::{Dataset, LoadOptions, Loader, Source, Synthetic};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const SIZE: usize = 32;
/// Enough for several threads to share, were there any.
const BATCH: usize = 128;
/// Batches of an epoch: more than are announced ahead.
const BATCHES: usize = 24;
const IMAGES: usize = BATCHES * BATCH;

/// From a pack as from memory, pixels as indices. The order of an epoch is made once, and may allocate.
#[test]
fn a_batch_allocates_nothing_on_one_core() {
    let folder = tempfile::tempdir().unwrap();
    let source = Synthetic::new(1, IMAGES);
    let request = Request {
        source: &source,
        recipe: Recipe {
            dataset: "synthetic".to_string(),
            data: None,
            split: None,
            crop: None,
            drawn: Some((1, IMAGES as u64)),
            size: SIZE,
            channels: source.channels(),
            choice: Choice::default(),
            condition: None,
        },
        place: Place::Named(folder.path().join("faces.pack")),
        options: LoadOptions {
            size: SIZE,
            ..LoadOptions::default()
        },
        notice: &|notice| panic!("{notice:?}"),
    };
    let streamed = Dataset::from_pack(request.open_or_make().unwrap().pack);
    let host = Dataset::from_pack(request.open_or_make().unwrap().pack)
        .into_memory()
        .unwrap();
    let one_core = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    let mut pixels = vec![0; BATCH * SIZE * SIZE * 3];
    let mut indices = vec![0; BATCH];
    let mut flips = vec![0; BATCH];
    one_core.install(|| {
        for dataset in [&streamed, &host] {
            let mut loader = Loader::new(dataset, BATCH, 7, true).unwrap();
            assert_eq!(loader.batches_per_epoch(), BATCHES as u64);
            loader.indices(0);
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            for step in 0..8 {
                loader.announce(step);
                loader.fill(step, &mut pixels, &mut flips);
                let batch = Batch {
                    labels: &mut [],
                    images: Images::Pixels(&mut pixels),
                    flips: &mut flips,
                };
                loader.write(step, batch);
                let batch = Batch {
                    labels: &mut [],
                    images: Images::Indices(&mut indices),
                    flips: &mut flips,
                };
                loader.write(step, batch);
            }
            assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before);
            // The counter counts.
            loader.indices(BATCHES as u64);
            assert!(ALLOCATIONS.load(Ordering::Relaxed) > before);
        }
    });
    assert_eq!(pixels[..SIZE * SIZE * 3], *host.image(indices[0] as usize));
}
