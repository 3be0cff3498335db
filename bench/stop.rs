//! SIGINT and SIGTERM end a run between two measurements, so that everything it made is taken down.
//!
//! Decides nothing. Invariant: once a signal came, `check` fails for ever; the second signal ends the process at once.

use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Listens from now on.
pub fn watch() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    // Registered before anything is made that would have to be taken down.
    let (mut interrupt, mut terminate) = {
        use tokio::signal::unix::{SignalKind, signal};
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if ASKED.swap(true, Ordering::SeqCst) {
                    std::process::exit(130);
                }
                eprintln!("twinfs-bench: stopping; once more: at once, and leaving everything");
            }
        });
    });
    Ok(())
}

/// Whether a signal came.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Fails once a signal came.
pub fn check() -> anyhow::Result<()> {
    anyhow::ensure!(!asked(), "stopped by a signal");
    Ok(())
}
