//! scripts/check-sass: what it says of small functions in the words of cuobjdump, one for each rule; and of this
//! build's kernels, where there is a disassembler.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

fn script(arguments: &[&str]) -> Output {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/check-sass");
    Command::new("python3")
        .arg(path)
        .args(arguments)
        .output()
        .unwrap()
}

fn text(out: &Output) -> String {
    let (said, wrong) = (&out.stdout, &out.stderr);
    let [said, wrong] = [said, wrong].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{}\n{said}{wrong}", out.status)
}

/// No python3 is no failure.
fn no_python() -> bool {
    let none = Command::new("python3").arg("--version").output().is_err();
    if none {
        eprintln!("SKIPPED: there is no python3");
    }
    none
}

/// A function of these instructions, 16 bytes each, as cuobjdump prints it. It waits first, unless they do.
fn listing(name: &str, instructions: &[&str]) -> String {
    let waits = instructions.contains(&"ACQBULK");
    let wait = if waits {
        ""
    } else {
        "        /*0000*/                   ACQBULK ;\n"
    };
    let lines = instructions.iter().enumerate();
    let lines =
        lines.map(|(i, words)| format!("        /*{:04x}*/                   {words} ;\n", 16 * i));
    let lines: String = lines.collect();
    format!("\t\tFunction : {name}\n{wait}{lines}")
}

/// Exit code and words of the script about one function; `only` is part of its entry in EXPECTED.
fn check(only: &str, name: &str, instructions: &[&str]) -> (Option<i32>, String) {
    static FILES: AtomicU32 = AtomicU32::new(0);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("check-sass-{}-{number}", std::process::id()));
    fs::write(&path, listing(name, instructions)).unwrap();
    let out = script(&["--sass", path.to_str().unwrap(), "--only", only]);
    fs::remove_file(&path).unwrap();
    (out.status.code(), text(&out))
}

/// Four loads a turn, the first use behind them.
const STREAM: [&str; 10] = [
    "MOV R40, 0x0",
    "LDG.E.128 R4, desc[UR4][R2.64]",
    "LDG.E.128 R8, desc[UR4][R2.64+0x1000]",
    "LDG.E.128 R12, desc[UR4][R2.64+0x2000]",
    "IADD3 R41, R41, 0x4, RZ",
    "LDG.E.128 R16, desc[UR4][R2.64+0x3000]",
    "FADD R40, R40, R7",
    "FADD R40, R40, R16",
    "@!P0 BRA 0x10",
    "EXIT",
];
/// A loop that multiplies.
const MULTIPLY: [&str; 6] = [
    "MOV R40, 0x0",
    "LDSM.16.M88.4 R4, [R2]",
    "HMMA.16816.F32.BF16 R8, R4, R6, R8",
    "IADD3 R41, R41, 0x1, RZ",
    "@!P0 BRA 0x10",
    "EXIT",
];
const STATISTICS: [&str; 2] = ["batch_norm_statistics", "batch_norm_statistics_nhwc_bf16"];
const GATHER: [&str; 2] = ["conv2d_fprop", "conv2d_fprop_nhwc_bf16_128x64"];

/// `code` with the instruction at `at` replaced, on a kernel of the table; what must be said, or nothing.
#[track_caller]
fn expect(
    [only, name]: [&str; 2],
    code: &[&str],
    at: usize,
    instruction: &str,
    complaint: Option<&str>,
) {
    let mut code = code.to_vec();
    code[at] = instruction;
    let (status, said) = check(only, name, &code);
    match complaint {
        None => assert_eq!(status, Some(0), "{instruction}: {said}"),
        Some(words) => {
            assert_eq!(status, Some(1), "{instruction}: {said}");
            assert!(said.contains(words), "{instruction}: {said}");
        }
    }
}

#[test]
fn good_code_passes() {
    if no_python() {
        return;
    }
    expect(STATISTICS, &STREAM, 0, STREAM[0], None);
    expect(GATHER, &MULTIPLY, 0, MULTIPLY[0], None);
    let warpgroups = ["_wgmma", "conv_wgrad_nhwc_bf16_128x64_wgmma"];
    let multiply = "HGMMA.64x64x16.F32.BF16 R8, gdesc[UR4], R8";
    expect(warpgroups, &MULTIPLY, 2, multiply, None);
    let words = "0 loops with HGMMA, not 1";
    expect(warpgroups, &MULTIPLY, 2, MULTIPLY[2], Some(words));
}

#[test]
fn memory_that_is_touched_before_the_wait_is_seen() {
    if no_python() {
        return;
    }
    let words = Some("LDG.E.128 at 0x10 before it waits");
    expect(STATISTICS, &STREAM, 4, "ACQBULK", words);
    expect(STATISTICS, &STREAM, 0, "ACQBULK", None);
    for (at, instruction) in [
        (0, "STG.E desc[UR4][R2.64], R4"),
        (1, "ATOMG.E.ADD PT, R4, desc[UR4][R2.64], R5"),
    ] {
        let mut code = MULTIPLY;
        code[2] = "ACQBULK";
        let words = Some("before it waits for the kernel before it");
        expect(GATHER, &code, at, instruction, words);
    }
    // Shared memory is its own.
    expect(GATHER, &MULTIPLY, 0, "STS [R2], R4", None);
}

#[test]
fn local_memory_is_seen_wherever_it_is() {
    if no_python() {
        return;
    }
    let words = Some("1 accesses to local memory, the first at 0x0");
    for instruction in ["STL [R1+0x8], R40", "LDL.64 R40, [R1]"] {
        expect(GATHER, &MULTIPLY, 0, instruction, words);
        expect(STATISTICS, &STREAM, 0, instruction, words);
    }
}

#[test]
fn integer_divisions_are_seen_in_the_loop() {
    if no_python() {
        return;
    }
    for instruction in [
        "I2F.U32.RP R41, R42",
        "F2I.FTZ.U32.TRUNC.NTZ R41, R42",
        "MUFU.RCP R41, R42",
    ] {
        expect(
            GATHER,
            &MULTIPLY,
            3,
            instruction,
            Some("an integer division at 0x30"),
        );
        // In front of the loop it does not matter.
        expect(GATHER, &MULTIPLY, 0, instruction, None);
    }
    expect(
        STATISTICS,
        &STREAM,
        4,
        "I2F.RP R41, R42",
        Some("an integer division at 0x40"),
    );
    // What streams may divide floats.
    expect(STATISTICS, &STREAM, 4, "MUFU.RCP R41, R42", None);
}

#[test]
fn a_load_that_waits_for_another_is_seen() {
    if no_python() {
        return;
    }
    // Uses any register of the second load's four before the fourth is on its way.
    for register in [8, 9, 10, 11] {
        let instruction = format!("FADD R40, R40, R{register}");
        expect(STATISTICS, &STREAM, 4, &instruction, Some("3 from 0x10 on"));
    }
    // The next load's address is one that is waited for.
    expect(
        STATISTICS,
        &STREAM,
        5,
        "LDG.E.128 R16, desc[UR4][R12.64]",
        Some("3 from 0x10 on"),
    );
    // A narrower load is none of 16 bytes.
    expect(
        STATISTICS,
        &STREAM,
        5,
        "LDG.E.64 R16, desc[UR4][R2.64]",
        Some("3 from 0x10 on"),
    );
    // Arithmetic on other registers may come in between.
    expect(STATISTICS, &STREAM, 4, "FADD R40, R40, R20", None);
}

#[test]
fn a_loop_or_a_kernel_that_is_missing_is_seen() {
    if no_python() {
        return;
    }
    expect(
        STATISTICS,
        &STREAM,
        8,
        "@!P0 BRA 0x90",
        Some("0 loops with loads of 16 bytes, not 1"),
    );
    expect(
        GATHER,
        &MULTIPLY,
        2,
        "FFMA R8, R4, R6, R8",
        Some("0 loops with HMMA, not 1"),
    );
    let (status, said) = check("batch_norm_apply", "another_kernel", &STREAM);
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains("no kernel is called batch_norm_apply"),
        "{said}"
    );
    let (status, said) = check("no such entry", "another_kernel", &STREAM);
    assert_eq!(status, Some(1), "{said}");
}

/// The kernels of the newest build in target/.
#[test]
fn kernels_of_this_build_are_as_meant() {
    if no_python() {
        return;
    }
    let out = script(&[]);
    let said = text(&out);
    if out.status.code() == Some(3) || said.contains("no kernels in target/") {
        eprintln!("{said}");
        eprintln!("SKIPPED: the machine code of this build: no disassembler or no kernels");
        return;
    }
    assert!(out.status.success(), "{said}");
}
