//! Putting a handler to work, and dismissing it when it has finished what is in hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::state::HandlerState;
use super::swap::Refused;
use super::{Host, HostError, Room, limits, reach};
use crate::broker::{BrokerError, Owned, RolledBack, Serving};
use crate::dispatch::{Dispatch, Version, Versions};
use crate::figures::Figures;
use crate::manifest::{Digest, Handler, Supply};
use crate::sandbox::{Plugin, Runner};
use crate::shutdown::Stop;

/// A handler at work in this host.
pub(super) struct Employed {
    pub handler: Arc<Handler>,
    pub versions: Arc<Versions>,
    pub figures: Arc<Figures>,
    pub serving: Serving,
    /// Where its plugins are compiled and run.
    pub room: Arc<Room>,
    /// The plugin that served before this one, to go back to.
    pub previous: Option<Plugin>,
    /// The versions that were taken back, on whichever host.
    pub rolled_back: Arc<BTreeMap<Digest, RolledBack>>,
    /// A version that turned out worse, and why: the other hosts are still to be told.
    pub worse: Option<(Digest, String)>,
    /// The version of the plugin's file that was refused.
    pub refused: Option<Refused>,
    /// Has it finish what is in hand and end.
    stop: Stop,
    /// That it has ended.
    ended: Stop,
}

impl Employed {
    /// The handler's name.
    pub(super) fn name(&self) -> Arc<str> {
        self.handler.name.clone()
    }

    /// Asks it to finish what is in hand.
    pub(super) fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    /// Whether it has, or its grace is over.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Waits for that.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

/// A handler, and all that it takes to put it to work.
pub(super) struct Opening {
    pub handler: Arc<Handler>,
    pub plugin: Plugin,
    pub room: Arc<Room>,
    /// Those of its predecessor, if it has one: what is told counts from the host's start.
    pub figures: Arc<Figures>,
}

impl Host {
    /// Puts a handler to work.
    ///
    /// # Errors
    ///
    /// When its plugin does not fit it, it cannot be put on its stream, or a stop is requested first.
    pub(super) async fn employ(&mut self, opening: Opening) -> Result<(), HostError> {
        let Opening { handler, plugin, room, figures } = opening;
        let reach = reach::through(&self.broker, &handler.grants);
        let runner = Runner::new(&plugin, handler.name.clone(), limits(&handler), reach)?;
        let version = Version::new(runner);
        let serving = Serving::new(version.digest().clone());
        let (stop, ended) = (self.stop.child_token(), Stop::new());
        let dispatch = Dispatch {
            handler: handler.clone(),
            versions: Arc::new(Versions::new(version)),
            figures: figures.clone(),
            sharded: self.sharded.clone(),
            guests: self.threads(),
            stop: stop.clone(),
            grace: self.grace,
        };
        let versions = dispatch.versions.clone();
        if handler.order.is_some() {
            self.share(dispatch, &serving, ended.clone()).await?;
        } else {
            self.subscribe(dispatch, &serving, ended.clone()).await?;
        }
        let (name, refused) = (handler.name.clone(), None);
        self.roster.enter(HandlerState {
            name,
            handler: handler.clone(),
            figures: figures.clone(),
            serving: serving.clone(),
        });
        self.employed.push(Employed {
            handler,
            versions,
            figures,
            serving,
            room,
            previous: None,
            rolled_back: Arc::default(),
            worse: None,
            refused,
            stop,
            ended,
        });
        Ok(())
    }

    async fn subscribe(
        &mut self,
        dispatch: Dispatch,
        serving: &Serving,
        ended: Stop,
    ) -> Result<(), BrokerError> {
        let (handler, broker) = (&dispatch.handler, self.broker.clone());
        let (figures, stop) = (dispatch.figures.clone(), dispatch.stop.clone());
        broker.wait_out(&stop, async || broker.agree(handler).await).await?;
        let subscription = broker.subscribe(handler, serving.clone(), figures, stop).await?;
        let (name, source, plugin) = (&handler.name, &handler.stream, serving.plugin());
        match handler.supply {
            Supply::Group | Supply::Broadcast => {
                tracing::info!(handler = %name, stream = %source, group = %handler.group,
                    consumer = subscription.consumer, %plugin, "reading");
            }
            Supply::Channel => {
                tracing::info!(handler = %name, channel = %source, %plugin, "at work");
            }
        }
        self.tasks.spawn(async move {
            let _ended = ended.drop_guard();
            dispatch.carry(subscription).await;
            // The connection outlives the last settlement.
            drop(broker);
        });
        Ok(())
    }

    /// Puts a handler to work on each shard of its stream for as long as this host owns it.
    async fn share(
        &mut self,
        dispatch: Dispatch,
        serving: &Serving,
        ended: Stop,
    ) -> Result<(), BrokerError> {
        let (handler, broker) = (&dispatch.handler, self.broker.clone());
        let (figures, stop) = (dispatch.figures.clone(), dispatch.stop.clone());
        let shards = broker.share(handler, serving.clone(), figures, stop).await?;
        tracing::info!(handler = %handler.name, stream = %handler.stream, group = %handler.group,
            consumer = shards.name(), plugin = %serving.plugin(), "shares the stream");
        self.tasks.spawn(async move {
            let _ended = ended.drop_guard();
            let carry = |Owned { handler, subscription, stop }| {
                Dispatch { handler: Arc::new(handler), stop, ..dispatch.clone() }
                    .carry(subscription)
            };
            shards.hold(carry).await;
            // The connection outlives the last settlement.
            drop(broker);
        });
        Ok(())
    }
}
