//! Runs simulations: `sim --seeds 1000 [--seed FIRST] [--steps 100000] [--minutes M] [--threads 2]`. Without `--seeds` and
//! `--minutes` one seed is run. A law that was broken is printed with what led there and with the command that replays it;
//! `--log registry=info` shows what its nodes say while it replays.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::{
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh::{
    ops::{LogFormat, init_log},
    runtime::clock,
};
use tests::sim::{Plan, Report, run};

/// A long run shows that it goes on whenever so many seeds are done.
const SAID_EVERY: u64 = 100;

struct Options {
    seed: u64,
    seeds: u64,
    steps: u64,
    time: Option<Duration>,
    threads: u64,
    keep_going: bool,
}

fn options() -> Option<Options> {
    let fresh = u64::try_from(clock::wall().0).unwrap_or(1);
    let mut options = Options {
        seed: 0,
        seeds: 1,
        steps: 100_000,
        time: None,
        threads: 2,
        keep_going: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        if name == "--keep-going" {
            options.keep_going = true;
            continue;
        }
        if name == "--log" {
            init_log(&arguments.next()?, LogFormat::Text).ok()?;
            continue;
        }
        let value: u64 = arguments.next()?.parse().ok()?;
        match name.as_str() {
            "--seed" => options.seed = value,
            "--seeds" => options.seeds = value,
            "--steps" => options.steps = value,
            "--minutes" => {
                options.time = Some(Duration::from_secs(value * 60));
                options.seeds = u64::MAX;
            }
            "--threads" => options.threads = value.max(1),
            _ => return None,
        }
    }
    if options.seed == 0 {
        options.seed = if options.seeds == 1 || options.time.is_some() {
            fresh
        } else {
            1
        };
    }
    Some(options)
}

fn show(report: &Report, steps: u64) {
    let Some(violation) = &report.violation else { return };
    println!(
        "\nseed {}: after {} steps a law is broken: {}",
        report.seed, report.steps, violation.invariant
    );
    println!(
        "expected: {}\nfound:    {}\n\n{}",
        violation.expected, violation.found, report.shown
    );
    println!(
        "replay: cargo run --release -p tests --bin sim -- --seed {} --steps {steps}",
        report.seed
    );
}

pub(crate) fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("sim [--seed S] [--seeds N | --minutes M] [--steps N] [--threads N] [--keep-going] [--log FILTER]");
        return ExitCode::from(2);
    };
    let began = clock::now();
    let (next, steps, virtual_ms) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let broken = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..options.threads.min(options.seeds) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let is_late = options.time.is_some_and(|time| began.elapsed() >= time);
                    let is_broken = !broken.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
                    if number >= options.seeds || is_late || (is_broken && !options.keep_going) {
                        return;
                    }
                    let seed = options.seed.wrapping_add(number);
                    let report = run(Plan {
                        seed,
                        steps: options.steps,
                    });
                    steps.fetch_add(report.steps, Ordering::Relaxed);
                    virtual_ms.fetch_add(report.virtual_ms, Ordering::Relaxed);
                    if options.seeds == 1 {
                        println!(
                            "seed {seed}: {} steps, hash {:016x}, {} polls at the busiest instant, {:?}",
                            report.steps, report.hash, report.busiest, report.counts
                        );
                    }
                    if report.violation.is_some() {
                        show(&report, options.steps);
                        broken.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
                    }
                    if (number + 1) % SAID_EVERY == 0 {
                        let broken = broken.lock().unwrap_or_else(PoisonError::into_inner).len();
                        println!("{} seeds so far, {broken} broken", number + 1);
                    }
                }
            });
        }
    });
    let seconds = began.elapsed().as_secs_f64();
    let (steps, broken) = (
        steps.into_inner(),
        broken.into_inner().unwrap_or_else(PoisonError::into_inner),
    );
    let seeds = next.into_inner().min(options.seeds);
    println!(
        "seeds from {}: about {seeds} run, {steps} steps in {seconds:.1} s ({:.0} a second), {:.1} h of virtual time, {} broken {broken:?}",
        options.seed,
        steps as f64 / seconds,
        virtual_ms.into_inner() as f64 / 3.6e6,
        broken.len(),
    );
    if broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
