//! What comes from an engine on its NRI socket: frames, messages, the container that one tells, and the profile in it.

use acctguard::nri::creation::Creation;
use acctguard::nri::engine::Engine;
use acctguard::nri::messages::{CreateContainerRequest, Request};
use acctguard::nri::seccomp;
use acctguard::nri::wire::{Inbox, encode};
use acctguard::oci::seccomp_closed::UnknownCalls;
use acctguard::oci::seccomp_merge::Listener;
use acctguard::oci::spec_edit::{Edit, Interception, Reader, Signals};
use prost::Message as _;

/// A connection: whole messages survive being sent, and an error is one line.
pub fn check(data: &[u8]) {
    let mut inbox = Inbox::new(data);
    loop {
        match inbox.receive() {
            Ok(Some(message)) => {
                let bytes = encode(&message).expect("what came fits");
                assert_eq!(Inbox::new(bytes.as_slice()).receive().expect("whole"), Some(message.clone()));
                let Ok(request) = Request::decode(message.payload.as_slice()) else { continue };
                let Ok(create) = CreateContainerRequest::decode(request.payload.as_slice()) else { continue };
                container(&create);
            }
            Ok(None) => break,
            Err(error) => {
                assert!(!error.to_string().contains('\n'), "{error}");
                break;
            }
        }
    }
}

/// A container: what is added is acctguard's, and its profile is not replaced where it is not known.
fn container(request: &CreateContainerRequest) {
    let told = request.container.as_ref().and_then(|container| container.linux.as_ref()?.seccomp_policy.as_ref());
    if let Some(policy) = told {
        assert_eq!(seccomp::message(&seccomp::section(policy)).as_ref(), Ok(policy));
    }
    for version in ["2.1.9", "2.2.0", "2.3.4"] {
        let Ok(creation) = Creation::of(request, &Engine::new("containerd", version)) else { continue };
        let interception = match creation.obstacle() {
            Some(reason) => Interception::Unprotected { reason },
            None => Interception::Install,
        };
        let edit = Edit {
            hook_program: "/usr/libexec/acctguard/acctguard-hook".as_ref(),
            config_file: None,
            listener: Listener { path: "/run/acctguard/listener.sock", metadata: "acctguard/1" },
            interception,
            unknown_calls: UnknownCalls::AsProfile,
            signals: Signals::Cancel { reason: "unknown" },
            placement: None,
            reader: Reader::AsSpecified,
        };
        let Ok(adjustment) = creation.adjustment(&edit) else { continue };
        let hooks = adjustment.hooks.expect("always");
        assert!(hooks.create_runtime.iter().chain(&hooks.poststop).all(|hook| hook.path.ends_with("/acctguard-hook")));
        assert!(adjustment.annotations.keys().all(|key| key.starts_with("acctguard.io/")));
        let replaced = adjustment.linux.and_then(|linux| linux.seccomp_policy);
        // without the interception a profile changes only where acctguard's own was in it
        let ours = told.is_some_and(|policy| policy.listener_path == "/run/acctguard/listener.sock");
        assert!(replaced.is_none() || interception == Interception::Install || ours);
        assert!(
            replaced.is_none_or(|policy| interception != Interception::Install || !policy.listener_path.is_empty())
        );
    }
}
