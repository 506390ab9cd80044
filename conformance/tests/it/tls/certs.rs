//! Authorities and certificates, in files of a directory.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// An authority and a directory for what it issues.
pub(crate) struct Certs {
    dir: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

/// Where a certificate and its key are.
#[derive(Clone)]
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Certs {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("ca.pem"), authority.pem())?;
        Ok(Self { dir, authority })
    }

    /// The authority's own certificate.
    pub(crate) fn pem(&self) -> String {
        self.authority.pem()
    }

    /// The file of the authority's own certificate.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate for these names.
    pub(crate) fn issue(&self, file: &str, names: &[&str]) -> Result<Files> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        self.sign(self.dir.path(), file, CertificateParams::new(names)?)
    }

    /// A certificate for these names that has expired.
    pub(crate) fn issue_expired(&self, file: &str, names: &[&str]) -> Result<Files> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names)?;
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        self.sign(self.dir.path(), file, params)
    }

    /// A certificate for these names in place of another one.
    pub(crate) fn replace(&self, files: &Files, names: &[&str]) -> Result<()> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = self.sign(self.dir.path(), "fresh", CertificateParams::new(names)?)?;
        std::fs::rename(made.certificate, &files.certificate)?;
        std::fs::rename(made.key, &files.key)?;
        Ok(())
    }

    fn sign(&self, dir: &Path, file: &str, mut params: CertificateParams) -> Result<Files> {
        params.distinguished_name.push(DnType::CommonName, file);
        let key = KeyPair::generate()?;
        let made = params.signed_by(&key, &self.authority)?;
        let path = |what: &str| dir.join(format!("{file}.{what}.pem"));
        let files = Files { certificate: path("cert"), key: path("key") };
        std::fs::write(&files.certificate, made.pem())?;
        std::fs::write(&files.key, key.serialize_pem())?;
        Ok(files)
    }
}

impl Files {
    /// The options of a server that shows it.
    pub(crate) fn server(&self) -> serde_json::Value {
        serde_json::json!({ "certificate_path": self.certificate, "key_path": self.key })
    }
}
