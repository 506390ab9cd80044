//! `run`: the daemon from start to end.

mod limits;
mod loader;
mod notify;
mod quickstart;
mod watchdog;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::Duration,
};

use crosspoint_api::{Control, SocketError, socket};
use crosspoint_kernel::supervise::{
    self, BootError, EXIT_SOFTWARE, Event, Handle, Observer, ReloadReport,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::{
    Fatal,
    cli::{Global, Run},
    commands,
    logging::{self, Severity},
    version::VERSION,
    words,
};
use loader::Source;
use notify::Notifier;

/// A stop that takes longer than this is forced, as in the reference.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// How long a stop waits for the disk.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);

/// Memory for the stack of each worker; only what is used counts. Builds without optimisation need more.
const STACK: usize = if cfg!(debug_assertions) { 4 << 20 } else { 1 << 20 };

/// What `run` was asked to do.
#[derive(Debug)]
pub(crate) struct Options {
    global: Global,
    control: Option<PathBuf>,
    strict: bool,
    watch: bool,
    /// Without a command: the built-in configuration will do if there is no other.
    bare: bool,
}

impl Options {
    pub(crate) fn new(global: Global, run: Run) -> Self {
        let control = run.control.filter(|path| !path.as_os_str().is_empty());
        Self { global, control, strict: run.strict, watch: run.watch, bare: false }
    }

    /// `crosspoint` without a command.
    pub(crate) fn bare(global: Global) -> Self {
        let control = std::env::var_os(socket::CONTROL_ENV).map(PathBuf::from);
        let run = Run { control, ..Run::default() };
        Self { bare: true, ..Self::new(global, run) }
    }
}

/// Runs the daemon to its end.
pub(crate) fn run(options: Options) -> Result<ExitCode, Fatal> {
    commands::sane_build()?;
    limits::raise_open_files();
    let source = Source::new(&options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(1, Into::into))
        .thread_name("worker")
        .thread_stack_size(STACK)
        .max_blocking_threads(128)
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()
        .map_err(|error| format!("start the runtime: {}", words::os(&error)))?;
    let end = runtime.block_on(serve(options, source));
    // What still runs belongs to nobody any more.
    runtime.shutdown_background();
    end
}

/// Signals that the daemon obeys.
struct Signals {
    reload: Signal,
    interrupt: Signal,
    terminate: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Reload,
    Stop,
}

impl Signals {
    fn new() -> Result<Self, Fatal> {
        let fail = |error: std::io::Error| format!("signals: {}", words::os(&error));
        Ok(Self {
            reload: signal(SignalKind::hangup()).map_err(fail)?,
            interrupt: signal(SignalKind::interrupt()).map_err(fail)?,
            terminate: signal(SignalKind::terminate()).map_err(fail)?,
        })
    }

    /// The next request.
    async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.reload.recv() => Request::Reload,
            _ = self.interrupt.recv() => Request::Stop,
            _ = self.terminate.recv() => Request::Stop,
        }
    }

    /// Resolves when the daemon is asked to stop.
    async fn stop(&mut self) {
        while self.next().await != Request::Stop {}
    }
}

async fn serve(options: Options, source: Source) -> Result<ExitCode, Fatal> {
    let mut signals = Signals::new()?;
    let notifier = Arc::new(Notifier::from_env());
    let control = control_socket(options.control.as_deref())?;
    let cell: Arc<OnceLock<Handle>> = Arc::default();
    let quick = source.is_embedded();
    let loader = source.loader(control.clone(), cell.clone());
    let boot = supervise::boot(loader, observer(notifier.clone()));
    let (handle, report) = tokio::select! {
        biased;
        booted = boot => booted.map_err(boot_failed)?,
        // Nothing is served yet: nothing is left to be closed.
        () = signals.stop() => return Ok(ExitCode::SUCCESS),
    };
    // Both are set once, here.
    let _ = cell.set(handle.clone());
    if let Some(control) = &control {
        control.attach(handle.clone());
    }
    for (id, _, why) in report.components.iter().filter(|(_, _, why)| why.is_some()) {
        warn!("degraded start: {id}: {}", why.as_deref().unwrap_or_default());
    }
    info!("crosspoint started ({:.2}s)", logging::uptime().as_secs_f64());
    notifier.ready(&status_line(&report));
    watchdog::spawn(&tokio::runtime::Handle::current(), notifier.clone());
    if quick {
        quickstart::print(control.as_deref(), &report);
    }
    let drained = async {
        match &control {
            Some(control) => control.drained().await,
            None => std::future::pending().await,
        }
    };
    let mut drained = std::pin::pin!(drained);
    loop {
        tokio::select! {
            request = signals.next() => match request {
                Request::Reload => {
                    let handle = handle.clone();
                    // The kernel logs what comes of it, and takes one reload after the other.
                    tokio::spawn(async move { handle.reload().await });
                }
                Request::Stop => break,
            },
            () = &mut drained => break,
            why = handle.failed() => {
                error!("the kernel failed: {why}");
                return Err(Fatal::with_code(EXIT_SOFTWARE as u8, format!("kernel: {why}")));
            }
        }
    }
    notifier.stopping();
    force_stop_later();
    let cut = handle.drain(Duration::ZERO).await;
    handle.finish(FLUSH_DEADLINE).await;
    // The last second of what the cache file is to remember.
    let flush = handle.plane().state().flush();
    let _ = tokio::time::timeout(FLUSH_DEADLINE, flush).await;
    if let Some(control) = &control {
        control.close();
    }
    info!("crosspoint stopped, {cut} connections cut");
    Ok(ExitCode::SUCCESS)
}

/// The control socket. Where the user named no place, a place that cannot be had is no reason not to start.
fn control_socket(explicit: Option<&std::path::Path>) -> Result<Option<Arc<Control>>, Fatal> {
    let bound = |path: &std::path::Path| Control::bind(path, VERSION);
    match explicit {
        Some(path) => Ok(Some(bound(path).map_err(|error| error.to_string())?)),
        None => match bound(&socket::default_path()) {
            Ok(control) => Ok(Some(control)),
            Err(error @ SocketError::InUse(_)) => {
                warn!("{error}; this one goes without: name another with --control");
                Ok(None)
            }
            Err(error) => {
                warn!("{error}; going on without: name another with --control");
                Ok(None)
            }
        },
    }
}

fn boot_failed(error: BootError) -> Fatal {
    match error {
        BootError::Load(error) => error.to_string().into(),
        BootError::Start(why) => format!("start service: {why}").into(),
        BootError::Kernel(why) => Fatal::with_code(EXIT_SOFTWARE as u8, format!("kernel: {why}")),
    }
}

/// Tells systemd about reloads.
fn observer(notifier: Arc<Notifier>) -> Observer {
    Arc::new(move |event| match event {
        Event::Reloading => notifier.reloading(),
        Event::Reloaded(report) => notifier.ready(&status_line(report)),
    })
}

/// One line for `systemctl status`.
fn status_line(report: &ReloadReport) -> String {
    let failed = report.components.iter().filter(|(_, _, why)| why.is_some()).count();
    let generation = report.generation;
    match &report.error {
        Some(why) => {
            let why = why.lines().next().unwrap_or_default();
            format!("generation {generation} serves on; the last reload was refused: {why}")
        }
        None if failed > 0 => {
            format!("generation {generation}, {failed} components failed to start")
        }
        None => format!("generation {generation}"),
    }
}

/// Ends the process when stopping takes too long. A thread, because the runtime may be what hangs.
fn force_stop_later() {
    let force = || {
        std::thread::sleep(STOP_DEADLINE);
        logging::print(Severity::Fatal, "crosspoint did not close!");
        std::process::exit(1);
    };
    // Without the thread the stop is merely not forced.
    let _ = std::thread::Builder::new().name("stop".to_owned()).stack_size(64 << 10).spawn(force);
}
