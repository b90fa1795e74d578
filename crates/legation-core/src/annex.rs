//! The annex of an order: names and reasons, which officers read and the host does not.

use crate::id::Sha256;
use crate::statement::{Annex, Order};

/// Why an annex is not the one that an order names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnexError {
    /// The order names another digest.
    #[error(
        "this annex is not the one that the order names: its SHA-256 is {found}, the order says {want}"
    )]
    Digest {
        /// Of this annex.
        found: Sha256,
        /// In the order.
        want: Sha256,
    },
    /// It speaks of another order, or of other registries.
    #[error("the annex does not fit the order: it names another order or other registries")]
    Misfit,
}

impl Annex {
    /// Whether this is the annex of `order`: same digest, same name, same registries in the same order.
    ///
    /// # Errors
    /// [`AnnexError`]; nobody should approve such an order.
    pub fn check(&self, order: &Order) -> Result<(), AnnexError> {
        if self.id() != order.annex_sha256 {
            return Err(AnnexError::Digest {
                found: self.id(),
                want: order.annex_sha256,
            });
        }
        let same = self
            .registry
            .iter()
            .map(|r| r.id)
            .eq(order.registry.iter().map(|r| r.registry));
        if same && self.order == order.order {
            Ok(())
        } else {
            Err(AnnexError::Misfit)
        }
    }
}
