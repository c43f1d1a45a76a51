//! The end of a listener, and that of its container when it was the last.

use std::sync::Arc;
use std::time::Duration;

use crate::daemon::deadline_watch;
use crate::daemon::post::Post;
use crate::daemon::registry::Guarded;
use crate::daemon::retirement::Busy;
use crate::daemon::service::Service;
use crate::model::diagnostic::chain;

const STACK_BYTES: usize = 256 * 1024;
/// How long the poststop hook may take to say that a container is gone before its listener's end is taken for it.
const POSTSTOP_PATIENCE: Duration = Duration::from_secs(2);

/// Closes a post that the watch served, which waits for nobody.
pub fn close_elsewhere(post: &Arc<Post>) {
    let of_thread = Arc::clone(post);
    let thread = std::thread::Builder::new().name("concludes".to_owned()).stack_size(STACK_BYTES);
    let spawned = thread.spawn(move || {
        // a successor sees the end itself
        if let Some(_busy) = of_thread.service.retirement.busy() {
            close(&of_thread);
        }
    });
    if let Err(error) = spawned {
        tracing::error!(container = post.guarded.id.as_str(), "cannot make a thread that closes a listener: {error}");
    }
}

/// The listener is closed here and at the keepers, and its container waits for another. The launcher, which asked for that, has its
/// answer from the kernel with the last descriptor.
pub fn give_way(post: &Arc<Post>) {
    let _busy = let_go(post);
    post.guarded.remove_listener();
}

/// The listener is closed here and at the keepers, and what was kept for it is forgotten.
fn let_go(post: &Arc<Post>) -> Option<Busy> {
    let service = &post.service;
    let busy = post.close();
    service.lines.release(post.number);
    let delivery = post.label().delivery;
    delivery.into_iter().for_each(|delivery| service.cases.grants.forget(delivery));
    service.deadlines.remove(post);
    let view = post.sight().view.take();
    if let Some(view) = view {
        service.cases.close(&view);
    }
    busy
}

/// The listener is closed here and at the keeper, once no thread is stuck with it; with a container's last one its case is closed.
pub fn close(post: &Arc<Post>) {
    let Post { service, guarded, .. } = post.as_ref();
    let _busy = let_go(post);
    if post.origin.session.is_none() {
        guarded.note_own_listener_ended();
    }
    deadline_watch::tell_rest(post);
    if guarded.remove_listener() {
        conclude(service, guarded);
    }
}

/// A container without listeners has ended, unless its exec sessions came before its own.
fn conclude(service: &Service, guarded: &Arc<Guarded>) {
    if !guarded.has_ended() {
        // an exec session of a container whose own listener is yet to come, or was lost
        return;
    }
    service.cases.finish(guarded);
    if guarded.wait_for_exit(POSTSTOP_PATIENCE) || guarded.listeners() > 0 {
        return;
    }
    if let Err(error) = service.ended_unreported(guarded, "listener") {
        tracing::error!(container = guarded.id.as_str(), "its end is not recorded: {}", chain(&error));
    }
}
