//! The members of a group, bound late.

use std::sync::Arc;

use crosspoint_kernel::component::{BuildCx, Outbound};
use crosspoint_kernel::session::Network;
use crosspoint_kernel::slot::Slot;
use crosspoint_kernel::{BuildError, Tag};

/// Members in the order of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Members(Arc<[Arc<Slot<dyn Outbound>>]>);

impl Members {
    /// Finds the slots of the tags.
    ///
    /// # Errors
    /// A tag that is no outbound.
    pub(crate) fn find(tags: &[String], cx: &BuildCx) -> Result<Self, BuildError> {
        let find = |(index, tag): (usize, &String)| {
            let missing = || BuildError::options(format_args!("outbound {index} not found: {tag}"));
            cx.names.outbounds.get(tag.as_str()).cloned().ok_or_else(missing)
        };
        tags.iter().enumerate().map(find).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Slot<dyn Outbound>>> {
        self.0.iter()
    }

    pub(crate) fn by_tag(&self, tag: &str) -> Option<&Arc<Slot<dyn Outbound>>> {
        self.0.iter().find(|slot| &*slot.tag == tag)
    }

    pub(crate) fn tags(&self) -> Vec<Tag> {
        self.0.iter().map(|slot| slot.tag.clone()).collect()
    }
}

/// Whether the member carries that network. One that is down now is not asked and counts as able.
pub(crate) fn supports(slot: &Slot<dyn Outbound>, network: Network) -> bool {
    slot.now().is_none_or(|instance| instance.face.supports(network))
}

/// Where measurements of a member belong: the member of a group that it is, itself otherwise (one level, as the
/// reference).
pub(crate) fn leaf(slot: &Slot<dyn Outbound>) -> Tag {
    let chosen =
        slot.now().and_then(|instance| instance.face.group().and_then(|group| group.selected()));
    chosen.unwrap_or_else(|| slot.tag.clone())
}
