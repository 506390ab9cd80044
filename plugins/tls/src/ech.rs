//! Encrypted Client Hello at the client (RFC 9849): where its configuration comes from, and what to do when the
//! server wants another one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crosspoint_kernel::{
    resolve::{Ask, Trail},
    snapshot::Plane,
};
use crosspoint_schema::options::EchOutOptions;
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, RecordType, rdata::svcb::SvcParamValue},
};
use parking_lot::Mutex;
use rustls::{
    ClientConfig, Error, PeerIncompatible,
    client::EchConfig,
    crypto::aws_lc_rs::hpke::ALL_SUPPORTED_SUITES,
    internal::msgs::codec::Codec as _,
    pki_types::{EchConfigListBytes, ServerName},
};

use crate::{
    HandshakeError, TlsError,
    client::{Made, Recipe},
    pem,
};

/// Label of configurations in PEM.
const LABEL: &str = "ECH CONFIGS";

/// Shortest time that a configuration of the DNS is kept: handshakes in a burst share one lookup.
const MIN_TTL: Duration = Duration::from_secs(1);

/// Longest time that one is kept.
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// Where configurations come from.
enum Source {
    /// The options.
    Options(Vec<u8>),
    /// The HTTPS record of that name.
    Dns(Name, Option<Arc<Plane>>),
}

/// A configuration in use.
struct Current {
    ech: EchConfig,
    made: Made,
    /// `None`: it came with the options, or from the server.
    until: Option<Instant>,
}

impl Current {
    /// The first configuration of a list that we can use.
    fn new(list: &[u8], until: Option<Instant>, recipe: &Recipe) -> Result<Self, TlsError> {
        let ech = usable(list)?;
        let made = Made::new(recipe.with_ech(ech.clone())?, recipe);
        Ok(Self { ech, made, until })
    }
}

/// ECH of one client.
pub(crate) struct Ech {
    source: Source,
    current: Mutex<Option<Current>>,
    /// One lookup at a time; the others wait for its outcome.
    looking: tokio::sync::Mutex<()>,
}

impl Ech {
    pub(crate) fn new(
        options: &EchOutOptions,
        name: &ServerName<'_>,
        plane: Option<Arc<Plane>>,
    ) -> Result<Self, TlsError> {
        let given = pem::text("read ECH config", &options.config, &options.config_path)?;
        let source = match given.filter(|pem| !pem.is_empty()) {
            Some(pem) => {
                let list = pem::block(&pem, LABEL);
                Source::Options(list.ok_or_else(|| TlsError::options("invalid ECH configs pem"))?)
            }
            None => {
                let ServerName::DnsName(name) = name else {
                    let why = "ECH without a configuration needs a domain as server_name";
                    return Err(TlsError::options(why));
                };
                let name = Name::from_ascii(format!("{}.", name.as_ref()))
                    .map_err(|error| TlsError::options(format_args!("server_name: {error}")))?;
                Source::Dns(name, plane)
            }
        };
        Ok(Self { source, current: Mutex::new(None), looking: tokio::sync::Mutex::new(()) })
    }

    /// Finds out whether a configuration of the options can be used.
    pub(crate) fn check(&self, recipe: &Recipe) -> Result<(), TlsError> {
        if let Source::Options(list) = &self.source {
            let ech = usable(list)?;
            let made = Made::unseen(recipe.with_ech(ech.clone())?);
            *self.current.lock() = Some(Current { ech, made, until: None });
        }
        Ok(())
    }

    /// The configuration for the next handshake.
    pub(crate) async fn config(
        &self,
        recipe: &Recipe,
        trail: &Trail,
    ) -> Result<Arc<ClientConfig>, HandshakeError> {
        if let Some(config) = self.fresh(recipe) {
            return Ok(config);
        }
        let Source::Dns(name, plane) = &self.source else {
            return Err(HandshakeError::other("no ECH configuration"));
        };
        let _turn = self.looking.lock().await;
        if let Some(config) = self.fresh(recipe) {
            return Ok(config);
        }
        let failed = |why: &dyn std::fmt::Display| {
            HandshakeError::other(format_args!("fetch ECH config list: {why}"))
        };
        let plane = plane.as_ref().ok_or_else(|| failed(&"no resolver"))?;
        let query = question(name).map_err(|error| failed(&error))?;
        let answer = plane
            .resolver()
            .exchange(Ask { trail, ..Ask::new(&query) })
            .await
            .map_err(|error| failed(&error))?;
        let (list, ttl) = in_answer(&answer).map_err(|why| failed(&why))?;
        let until = Some(Instant::now() + ttl.clamp(MIN_TTL, MAX_TTL));
        let current = Current::new(&list, until, recipe).map_err(|error| failed(&error))?;
        let config = current.made.config.clone();
        *self.current.lock() = Some(current);
        Ok(config)
    }

    fn fresh(&self, recipe: &Recipe) -> Option<Arc<ClientConfig>> {
        let mut current = self.current.lock();
        let current = current.as_mut()?;
        if current.until.is_some_and(|until| until <= Instant::now()) {
            return None;
        }
        if !current.made.is_current(recipe) {
            current.made = Made::new(recipe.with_ech(current.ech.clone()).ok()?, recipe);
        }
        Some(current.made.config.clone())
    }

    /// Takes over what a server that rejects ECH says it wants instead (RFC 9849 §6.1.6; the library has checked
    /// that the server may speak for the public name). Whether another attempt has a chance.
    pub(crate) fn rejected(&self, recipe: &Recipe, error: &Error) -> bool {
        let Error::PeerIncompatible(PeerIncompatible::ServerRejectedEncryptedClientHello(retry)) =
            error
        else {
            return false;
        };
        let mut current = self.current.lock();
        let until = current.as_ref().and_then(|current| current.until);
        let fresh =
            retry.as_ref().and_then(|list| Current::new(&list.get_encoding(), until, recipe).ok());
        match fresh {
            Some(fresh) => {
                *current = Some(fresh);
                true
            }
            None => {
                // The DNS may know better by now; the options never will.
                if matches!(self.source, Source::Dns(..)) {
                    *current = None;
                }
                false
            }
        }
    }
}

/// The first configuration of a list that we can use.
fn usable(list: &[u8]) -> Result<EchConfig, TlsError> {
    EchConfig::new(EchConfigListBytes::from(list), ALL_SUPPORTED_SUITES)
        .map_err(|error| TlsError::options(format_args!("ECH config: {error}")))
}

fn question(name: &Name) -> Result<Vec<u8>, hickory_proto::ProtoError> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), RecordType::HTTPS));
    message.to_vec()
}

/// The configuration list in an answer, and how long it may be kept.
fn in_answer(message: &[u8]) -> Result<(Vec<u8>, Duration), String> {
    let message = Message::from_vec(message).map_err(|error| error.to_string())?;
    if message.metadata.response_code != ResponseCode::NoError {
        return Err(message.metadata.response_code.to_string());
    }
    for record in &message.answers {
        let RData::HTTPS(service) = &record.data else { continue };
        for (_, value) in &service.svc_params {
            if let SvcParamValue::EchConfigList(list) = value {
                return Ok((list.0.clone(), Duration::from_secs(record.ttl.into())));
            }
        }
    }
    Err("no ECH config found in DNS records".to_owned())
}

#[cfg(test)]
mod tests {
    use rustls::internal::msgs::{codec::Reader, handshake::EchConfigPayload};

    use super::*;
    use crate::{client::Recipe, suites, verify::Trust};

    const CONFIGS: &str = include_str!("../tests/it/ech.pem");

    fn recipe() -> Recipe {
        Recipe::new(suites::negotiable("", "", &[]).unwrap(), Trust::All)
    }

    fn refusal(retry: Option<&[u8]>) -> Error {
        let list =
            retry.map(|list| Vec::<EchConfigPayload>::read(&mut Reader::init(list)).unwrap());
        PeerIncompatible::ServerRejectedEncryptedClientHello(list).into()
    }

    #[tokio::test]
    async fn what_the_server_wants_instead_is_taken() {
        let recipe = recipe();
        let options = EchOutOptions {
            enabled: true,
            config: CONFIGS.lines().map(str::to_owned).collect::<Vec<_>>().into(),
            ..EchOutOptions::default()
        };
        let name = ServerName::try_from("secret.test").unwrap();
        let ech = Ech::new(&options, &name, None).unwrap();
        ech.check(&recipe).unwrap();
        let trail = Trail::default();
        let first = ech.config(&recipe, &trail).await.unwrap();
        assert!(Arc::ptr_eq(&first, &ech.config(&recipe, &trail).await.unwrap()));
        let list = pem::block(CONFIGS.as_bytes(), LABEL).unwrap();
        // Another key of the same shape.
        let mut other = list.clone();
        let at = other.len() / 3;
        other[at] ^= 1;
        assert!(ech.rejected(&recipe, &refusal(Some(&other))));
        let second = ech.config(&recipe, &trail).await.unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        // No configuration, or another error: the one at hand stays.
        assert!(!ech.rejected(&recipe, &refusal(None)));
        assert!(!ech.rejected(&recipe, &Error::DecryptError));
        assert!(Arc::ptr_eq(&second, &ech.config(&recipe, &trail).await.unwrap()));
    }

    #[test]
    fn answers_are_read() {
        let name = Name::from_ascii("secret.test.").unwrap();
        assert!(question(&name).unwrap().len() > 12);
        let mut message = Message::query();
        assert_eq!(
            in_answer(&message.to_vec().unwrap()).unwrap_err(),
            "no ECH config found in DNS records"
        );
        message.metadata.response_code = ResponseCode::NXDomain;
        assert!(in_answer(&message.to_vec().unwrap()).is_err());
        assert!(in_answer(b"nonsense").is_err());
    }
}
