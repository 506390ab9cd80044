//! Users that go.

use crosspoint_kernel::component::BuildCx;
use crosspoint_kernel::ledger::Cut;

/// Ends the flows of an inbound's users whom `stays` does not know. Flows of nobody in particular end as well: they were
/// let in when nobody had to say who they are.
pub(crate) fn cut_strangers(cx: &BuildCx, stays: impl Fn(&str) -> bool) {
    let me = &cx.me;
    cx.plane.ledger.cut_where(Cut::Revoked, |entry| {
        let mine = entry.inbound.kind == me.kind && entry.inbound.tag == me.tag;
        mine && !entry.user.as_deref().is_some_and(&stays)
    });
}
