//! The question whether a node belongs to a tailnet (`verify_client_endpoint`), as a message to the actor of its
//! endpoint. The endpoint leaves its [`Directory`] in the [`Vault`] under
//! [`name`] for as long as it knows who belongs to its tailnet; whoever asks looks there at each question, so that it
//! reaches the instance in force.

use std::{sync::Arc, time::Duration};

use crosspoint_kernel::vault::Vault;
use tokio::sync::{mpsc, oneshot};

use crate::key::Key;

/// How long an endpoint may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A question: whether that node belongs to the tailnet.
#[derive(Debug)]
pub struct Question {
    /// The node.
    pub node: Key,
    /// Takes the answer.
    pub answer: oneshot::Sender<bool>,
}

/// Where an endpoint is asked.
#[derive(Clone, Debug)]
pub struct Directory(mpsc::Sender<Question>);

/// Why an endpoint does not vouch for a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// No endpoint of that tag knows of nodes.
    #[error("endpoint {0} is no running Tailscale endpoint")]
    Nobody(Box<str>),
    /// It does not answer.
    #[error("endpoint {0} does not answer")]
    Silent(Box<str>),
    /// It does not know the node.
    #[error("peer {1} not authorized (not found in endpoint {0})")]
    Unknown(Box<str>, Key),
}

/// The name that an endpoint's directory has in the vault.
#[must_use]
pub fn name(endpoint: &str) -> String {
    format!("tailnet/{endpoint}")
}

impl Directory {
    /// A directory, and where its endpoint takes the questions.
    #[must_use]
    pub fn new() -> (Arc<Self>, mpsc::Receiver<Question>) {
        let (sender, receiver) = mpsc::channel(256);
        (Arc::new(Self(sender)), receiver)
    }
}

/// Whether there is such an endpoint now.
#[must_use]
pub fn exists(vault: &Vault, endpoint: &str) -> bool {
    vault.left::<Directory>(&name(endpoint)).is_some()
}

/// Asks an endpoint to vouch for a node.
///
/// # Errors
/// It does not.
pub async fn ask(vault: &Vault, endpoint: &str, node: Key) -> Result<(), AskError> {
    let directory = vault.left::<Directory>(&name(endpoint));
    let directory = directory.ok_or_else(|| AskError::Nobody(endpoint.into()))?;
    let (answer, answered) = oneshot::channel();
    let work = async {
        directory.0.send(Question { node, answer }).await.ok()?;
        answered.await.ok()
    };
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(Some(true)) => Ok(()),
        Ok(Some(false)) => Err(AskError::Unknown(endpoint.into(), node)),
        Ok(None) | Err(_) => Err(AskError::Silent(endpoint.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_endpoint_in_force_is_asked() {
        let vault = Vault::default();
        let node = Key([1; 32]);
        assert_eq!(ask(&vault, "ts", node).await, Err(AskError::Nobody("ts".into())));
        let (directory, mut questions) = Directory::new();
        vault.leave(&name("ts"), Arc::downgrade(&directory));
        assert!(exists(&vault, "ts"));
        let endpoint = tokio::spawn(async move {
            while let Some(Question { node, answer }) = questions.recv().await {
                let _ = answer.send(node == Key([1; 32]));
            }
        });
        assert_eq!(ask(&vault, "ts", node).await, Ok(()));
        let other = Key([2; 32]);
        assert_eq!(ask(&vault, "ts", other).await, Err(AskError::Unknown("ts".into(), other)));
        endpoint.abort();
        let _ = endpoint.await;
        assert_eq!(ask(&vault, "ts", node).await, Err(AskError::Silent("ts".into())));
        drop(directory);
        assert_eq!(ask(&vault, "ts", node).await, Err(AskError::Nobody("ts".into())));
    }
}
