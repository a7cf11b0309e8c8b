//! What a region says of itself to a peer. Which records the peer may see is the watch scope `ExportedTo`. Pure.

use mesh::{
    identity::Bundle,
    model::{Incarnation, RegionId, WireError},
};
use proto::{federation::v1 as pb, registry::v1::TrustBundle};

use crate::catalog::State;

/// Most addresses of one region: more nodes than a Raft group has.
const ADDRESSES_MAX: usize = 32;
/// Longest address, in bytes: a host name and a port.
const ADDRESS_BYTES_MAX: usize = 261;

/// A region as it introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its name.
    pub region: RegionId,
    /// Its anchors.
    pub bundle: Bundle,
    /// `host:port` of its federation listeners.
    pub addresses: Vec<String>,
    /// Which life of its catalogue.
    pub incarnation: Incarnation,
}

/// This region's card; none before `Init`.
#[must_use]
pub fn card(state: &State, addresses: Vec<String>) -> Option<Card> {
    Some(Card {
        region: state.region()?.clone(),
        bundle: Bundle::clone(state.own_bundle()?),
        addresses,
        incarnation: state.incarnation(),
    })
}

impl From<Card> for pb::PeerCard {
    fn from(card: Card) -> Self {
        Self {
            region: card.region.to_string(),
            bundle: Some(card.bundle.into()),
            addresses: card.addresses,
            incarnation: card.incarnation.0,
        }
    }
}

impl TryFrom<pb::PeerCard> for Card {
    type Error = WireError;
    fn try_from(card: pb::PeerCard) -> Result<Self, WireError> {
        let region = RegionId::parse(&card.region).map_err(|fault| WireError::new("card.region", fault))?;
        let bundle: TrustBundle = card.bundle.ok_or_else(|| WireError::new("card.bundle", "is missing"))?;
        let bundle = Bundle::try_from(bundle)?;
        if *bundle.region() != region {
            let fault = format!("is that of region {}, the card is that of {region}", bundle.region());
            return Err(WireError::new("card.bundle", fault));
        }
        if card.addresses.len() > ADDRESSES_MAX {
            return Err(WireError::new(
                "card.addresses",
                format!("has more than {ADDRESSES_MAX} entries"),
            ));
        }
        for address in &card.addresses {
            let is_good = address.len() <= ADDRESS_BYTES_MAX
                && address
                    .rsplit_once(':')
                    .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
            if !is_good {
                return Err(WireError::new(
                    "card.addresses",
                    format!("{address:?} is not host:port"),
                ));
            }
        }
        Ok(Self {
            region,
            bundle,
            addresses: card.addresses,
            incarnation: Incarnation(card.incarnation),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::World;

    #[test]
    fn a_card_travels_unchanged_and_faults_are_named() {
        let card = card(&World::new("eu").state, vec!["registry.eu:15016".into()]).unwrap();
        let sent = pb::PeerCard::from(card.clone());
        assert_eq!(Card::try_from(sent.clone()).unwrap(), card);
        type Spoil = fn(&mut pb::PeerCard);
        let cases: [(&str, Spoil); 4] = [
            ("card.region", |card| card.region = "EU".into()),
            ("card.bundle", |card| card.bundle = None),
            ("card.bundle", |card| card.region = "us".into()),
            ("card.addresses", |card| card.addresses = vec!["nowhere".into()]),
        ];
        for (name, spoil) in cases {
            let mut bad = sent.clone();
            spoil(&mut bad);
            let text = Card::try_from(bad).unwrap_err().to_string();
            assert!(text.starts_with(name), "{text}");
        }
    }
}
