//! Whom clients trust: the `certificate` section.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, OnceLock},
};

use arc_swap::ArcSwap;
use crosspoint_schema::options::{CertificateOptions, CertificateStore};
use parking_lot::Mutex;
use rustls::{RootCertStore, pki_types::CertificateDer};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info};

use crate::{TlsError, pem, watch::Watched};

/// Bundles of the system's authorities; the first that is there counts (the list that Go programs use on Linux).
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Directories of single certificates, read when there is no bundle.
const DIRECTORIES: &[&str] = &["/etc/ssl/certs", "/etc/pki/tls/certs"];

/// Trusted authorities, and certificates that are trusted as they are.
#[derive(Debug)]
pub(crate) struct Roots {
    pub(crate) anchors: RootCertStore,
    /// SHA-256 of each certificate: a server that shows one of them needs no issuer.
    own: HashSet<[u8; 32]>,
}

impl Roots {
    fn empty() -> Self {
        Self { anchors: RootCertStore::empty(), own: HashSet::new() }
    }

    /// Exactly these.
    pub(crate) fn of(certificates: &[CertificateDer<'_>]) -> Self {
        let mut roots = Self::empty();
        roots.add(certificates);
        roots
    }

    fn add(&mut self, certificates: &[CertificateDer<'_>]) {
        for certificate in certificates {
            self.own.insert(digest(certificate));
            // What is no authority (a server's own certificate) is trusted as it is.
            let _ = self.anchors.add(certificate.clone().into_owned());
        }
    }

    /// Whether this very certificate is trusted.
    pub(crate) fn has(&self, certificate: &CertificateDer<'_>) -> bool {
        !self.own.is_empty() && self.own.contains(&digest(certificate))
    }
}

fn digest(certificate: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    out.copy_from_slice(digest.as_ref());
    out
}

/// A `certificate` section that was read and can be put in force.
#[derive(Debug)]
pub struct Plan {
    base: CertificateStore,
    inline: Vec<CertificateDer<'static>>,
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
    watched: Watched,
    /// Read when first needed if it is the system's alone: a daemon without TLS needs none.
    roots: OnceLock<Arc<Roots>>,
}

impl Plan {
    /// Reads the section.
    ///
    /// # Errors
    /// The store has an unknown name, or a file or text holds no certificate.
    pub fn new(options: &CertificateOptions) -> Result<Self, TlsError> {
        let initializing = |why: &dyn std::fmt::Display| {
            TlsError::options(format_args!("initializing certificate store: {why}"))
        };
        if let CertificateStore::Unknown(name) = &options.store {
            return Err(TlsError::options(format_args!("unknown certificate store: {name}")));
        }
        let mut inline = Vec::new();
        if !options.certificate.is_empty() {
            inline = pem::certificates(options.certificate.join("\n").as_bytes());
            if inline.is_empty() {
                return Err(initializing(&"invalid certificate PEM strings"));
            }
        }
        let paths =
            |list: &[String]| list.iter().filter(|p| !p.is_empty()).map(PathBuf::from).collect();
        let plan = Self {
            base: options.store.clone(),
            inline,
            files: paths(&options.certificate_path),
            watched: Watched::new(
                options
                    .certificate_path
                    .iter()
                    .chain(&*options.certificate_directory_path)
                    .filter(|p| !p.is_empty())
                    .map(PathBuf::from),
            ),
            directories: paths(&options.certificate_directory_path),
            roots: OnceLock::new(),
        };
        if !plan.watched.is_empty() {
            let roots = plan.load().map_err(|error| initializing(&error))?;
            let _ = plan.roots.set(Arc::new(roots));
        }
        Ok(plan)
    }

    fn roots(&self) -> &Arc<Roots> {
        self.roots.get_or_init(|| match self.load() {
            Ok(roots) => Arc::new(roots),
            // Only files can fail, and those were read when the plan was made.
            Err(_) => Arc::new(Roots::empty()),
        })
    }

    fn load(&self) -> Result<Roots, TlsError> {
        let mut roots = Roots::empty();
        match self.base {
            CertificateStore::System => roots.add(&system()),
            CertificateStore::Mozilla => {
                roots.anchors.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            }
            CertificateStore::None | CertificateStore::Unknown(_) => {}
        }
        roots.add(&self.inline);
        for path in &self.files {
            let found = pem::certificates(&pem::file("", path)?);
            if found.is_empty() {
                let path = path.display();
                return Err(TlsError::options(format_args!(
                    "invalid certificate PEM file: {path}"
                )));
            }
            roots.add(&found);
        }
        for path in &self.directories {
            match directory(path) {
                Ok(found) => roots.add(&found),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let what = format!("invalid certificate directory: {}", path.display());
                    return Err(TlsError::file(&what, path, error));
                }
            }
        }
        Ok(roots)
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            base: CertificateStore::System,
            inline: Vec::new(),
            files: Vec::new(),
            directories: Vec::new(),
            watched: Watched::new([]),
            roots: OnceLock::new(),
        }
    }
}

/// Whom clients trust whose options name nobody. Changes hold for the next handshake of every client.
#[derive(Debug)]
pub struct Store {
    plan: ArcSwap<Plan>,
    /// Ends the watching of files of an earlier plan.
    watching: Mutex<Option<DropGuard>>,
}

impl Store {
    /// A store with that plan in force, which is not watched.
    #[must_use]
    pub fn new(plan: impl Into<Arc<Plan>>) -> Arc<Self> {
        Arc::new(Self { plan: ArcSwap::new(plan.into()), watching: Mutex::new(None) })
    }

    /// The store of this process: the system's authorities until the daemon installs something else.
    #[must_use]
    pub fn process() -> &'static Arc<Self> {
        static STORE: LazyLock<Arc<Store>> = LazyLock::new(|| Store::new(Plan::default()));
        &STORE
    }

    /// Puts a plan in force and watches its files, if this is called in a tokio runtime.
    pub fn install(self: &Arc<Self>, plan: impl Into<Arc<Plan>>) {
        let plan = plan.into();
        let mut watching = self.watching.lock();
        *watching = None;
        let watched = plan.watched.clone();
        self.plan.store(plan);
        if watched.is_empty() || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let cancel = CancellationToken::new();
        let store = Arc::downgrade(self);
        let changed = move || {
            let Some(store) = store.upgrade() else { return false };
            store.reread();
            true
        };
        tokio::spawn(watched.watch(cancel.clone(), changed));
        *watching = Some(cancel.drop_guard());
    }

    fn reread(&self) {
        let old = self.plan.load_full();
        match old.load() {
            Ok(roots) => {
                let fresh = Plan {
                    base: old.base.clone(),
                    inline: old.inline.clone(),
                    files: old.files.clone(),
                    directories: old.directories.clone(),
                    watched: old.watched.clone(),
                    roots: OnceLock::from(Arc::new(roots)),
                };
                // Another plan may have been installed meanwhile: it stays.
                let before = self.plan.compare_and_swap(&old, Arc::new(fresh));
                if Arc::ptr_eq(&before, &old) {
                    info!("certificate store: reloaded");
                }
            }
            Err(error) => error!("certificate store: reload certificates: {error}"),
        }
    }

    pub(crate) fn roots(&self) -> Arc<Roots> {
        self.plan.load().roots().clone()
    }
}

/// The system's authorities: the files that `SSL_CERT_FILE` and `SSL_CERT_DIR` name, or the usual ones.
fn system() -> Vec<CertificateDer<'static>> {
    let mut found = Vec::new();
    let file = std::env::var_os("SSL_CERT_FILE").filter(|file| !file.is_empty());
    let files: Vec<PathBuf> = match file {
        Some(file) => vec![file.into()],
        None => BUNDLES.iter().map(PathBuf::from).collect(),
    };
    for path in files {
        if let Ok(bytes) = pem::file("", &path) {
            found = pem::certificates(&bytes);
            break;
        }
    }
    let named = std::env::var_os("SSL_CERT_DIR").filter(|dirs| !dirs.is_empty());
    if let Some(named) = named {
        for path in std::env::split_paths(&named) {
            found.extend(directory(&path).unwrap_or_default());
        }
    } else if found.is_empty() {
        for path in DIRECTORIES {
            found.extend(directory(Path::new(path)).unwrap_or_default());
        }
    }
    found
}

/// The certificates of every file in a directory. Links to files beside them are names for the same.
fn directory(path: &Path) -> std::io::Result<Vec<CertificateDer<'static>>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        let beside = std::fs::read_link(&path).is_ok_and(|to| to.components().count() == 1);
        if !beside && let Ok(bytes) = pem::file("", &path) {
            found.extend(pem::certificates(&bytes));
        }
    }
    Ok(found)
}
