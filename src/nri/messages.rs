//! The messages of ttrpc and of NRI, as far as they are used: a member that is not here is skipped when it is read.
//!
//! Numbers of members: containerd/ttrpc `request.proto`, containerd/nri `pkg/api/api.proto` (package `nri.pkg.api.v1alpha1`, NRI 0.8 to
//! 0.12). `seccomp_policy` is there from 0.10 on; an engine with an older one skips it.

use std::collections::BTreeMap;

/// Bit of CREATE_CONTAINER (`enum Event`, 4) in [`ConfigureResponse::events`].
pub const EVENT_CREATE_CONTAINER: i32 = 1 << 3;
/// `SecurityProfile.ProfileType` UNCONFINED.
pub const UNCONFINED: i32 = 1;
/// `google.rpc.Code` UNIMPLEMENTED.
pub const UNIMPLEMENTED: i32 = 12;

/// A call (ttrpc).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// Full name of the service.
    #[prost(string, tag = "1")]
    pub service: String,
    /// Its method.
    #[prost(string, tag = "2")]
    pub method: String,
    /// What the method takes.
    #[prost(bytes = "vec", tag = "3")]
    pub payload: Vec<u8>,
}

/// The answer to a call (ttrpc).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Response {
    /// Why there is none.
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    /// What the method gives.
    #[prost(bytes = "vec", tag = "2")]
    pub payload: Vec<u8>,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// `google.rpc.Code`; 0 is none.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// In words.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// The plugin's first call of the engine.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterPluginRequest {
    /// Its name.
    #[prost(string, tag = "1")]
    pub plugin_name: String,
    /// Two digits: plugins are asked in their order.
    #[prost(string, tag = "2")]
    pub plugin_idx: String,
}

/// Who the engine is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfigureRequest {
    /// What lies in the engine's folder of plugins' configurations for this one.
    #[prost(string, tag = "1")]
    pub config: String,
    /// `containerd` or `cri-o`.
    #[prost(string, tag = "2")]
    pub runtime_name: String,
    /// Its version.
    #[prost(string, tag = "3")]
    pub runtime_version: String,
    /// How long it waits for an answer, in milliseconds; 0 where it does not tell.
    #[prost(int64, tag = "5")]
    pub request_timeout: i64,
}

/// What the plugin wants to be asked.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfigureResponse {
    /// A bit for each event.
    #[prost(int32, tag = "2")]
    pub events: i32,
}

/// The pods and containers that are there. They keep what they were created with.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SynchronizeRequest {
    /// Whether more follow.
    #[prost(bool, tag = "3")]
    pub more: bool,
}

/// No changes to them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SynchronizeResponse {
    /// That more may follow.
    #[prost(bool, tag = "2")]
    pub more: bool,
}

/// A container that is about to be created.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CreateContainerRequest {
    /// Its pod.
    #[prost(message, optional, tag = "1")]
    pub pod: Option<PodSandbox>,
    /// The container.
    #[prost(message, optional, tag = "2")]
    pub container: Option<Container>,
}

/// What is to be changed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CreateContainerResponse {
    /// Of this container.
    #[prost(message, optional, tag = "1")]
    pub adjust: Option<ContainerAdjustment>,
}

/// A pod.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandbox {
    /// All of its annotations, those too that the engine does not put into config.json.
    #[prost(btree_map = "string, string", tag = "6")]
    pub annotations: BTreeMap<String, String>,
}

/// A container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Container {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Annotations of its config.json and of its own.
    #[prost(btree_map = "string, string", tag = "6")]
    pub annotations: BTreeMap<String, String>,
    /// Its hooks.
    #[prost(message, optional, tag = "10")]
    pub hooks: Option<Hooks>,
    /// What only Linux has.
    #[prost(message, optional, tag = "11")]
    pub linux: Option<LinuxContainer>,
}

/// The part of a container that only Linux has.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxContainer {
    /// Which seccomp profile was asked for.
    #[prost(message, optional, tag = "7")]
    pub seccomp_profile: Option<SecurityProfile>,
    /// The profile itself.
    #[prost(message, optional, tag = "8")]
    pub seccomp_policy: Option<LinuxSeccomp>,
}

/// A profile by its kind.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SecurityProfile {
    /// 0: the engine's default; 1: none; 2: a file.
    #[prost(int32, tag = "1")]
    pub profile_type: i32,
}

/// OCI hooks of the stages that are used.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hooks {
    /// When the container's namespaces are there.
    #[prost(message, repeated, tag = "2")]
    pub create_runtime: Vec<Hook>,
    /// When it is gone.
    #[prost(message, repeated, tag = "6")]
    pub poststop: Vec<Hook>,
}

/// An OCI hook.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hook {
    /// The program.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Its arguments, the first its name.
    #[prost(string, repeated, tag = "2")]
    pub args: Vec<String>,
    /// Its environment.
    #[prost(string, repeated, tag = "3")]
    pub env: Vec<String>,
}

/// Changes of a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerAdjustment {
    /// Annotations that are added.
    #[prost(btree_map = "string, string", tag = "2")]
    pub annotations: BTreeMap<String, String>,
    /// Hooks that are added.
    #[prost(message, optional, tag = "5")]
    pub hooks: Option<Hooks>,
    /// What only Linux has.
    #[prost(message, optional, tag = "6")]
    pub linux: Option<LinuxContainerAdjustment>,
}

/// Changes of what only Linux has.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxContainerAdjustment {
    /// The profile in the place of the one that there is.
    #[prost(message, optional, tag = "6")]
    pub seccomp_policy: Option<LinuxSeccomp>,
}

/// `linux.seccomp` of a config.json.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxSeccomp {
    /// `defaultAction`.
    #[prost(string, tag = "1")]
    pub default_action: String,
    /// `defaultErrnoRet`.
    #[prost(message, optional, tag = "2")]
    pub default_errno: Option<OptionalUInt32>,
    /// `architectures`.
    #[prost(string, repeated, tag = "3")]
    pub architectures: Vec<String>,
    /// `flags`.
    #[prost(string, repeated, tag = "4")]
    pub flags: Vec<String>,
    /// `listenerPath`.
    #[prost(string, tag = "5")]
    pub listener_path: String,
    /// `listenerMetadata`.
    #[prost(string, tag = "6")]
    pub listener_metadata: String,
    /// `syscalls`.
    #[prost(message, repeated, tag = "7")]
    pub syscalls: Vec<LinuxSyscall>,
}

/// An entry of `syscalls`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxSyscall {
    /// `names`.
    #[prost(string, repeated, tag = "1")]
    pub names: Vec<String>,
    /// `action`.
    #[prost(string, tag = "2")]
    pub action: String,
    /// `errnoRet`.
    #[prost(message, optional, tag = "3")]
    pub errno_ret: Option<OptionalUInt32>,
    /// `args`.
    #[prost(message, repeated, tag = "4")]
    pub args: Vec<LinuxSeccompArg>,
}

/// An entry of `args`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxSeccompArg {
    /// `index`.
    #[prost(uint32, tag = "1")]
    pub index: u32,
    /// `value`.
    #[prost(uint64, tag = "2")]
    pub value: u64,
    /// `valueTwo`.
    #[prost(uint64, tag = "3")]
    pub value_two: u64,
    /// `op`.
    #[prost(string, tag = "4")]
    pub op: String,
}

/// A number that may be absent.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct OptionalUInt32 {
    /// The number.
    #[prost(uint32, tag = "1")]
    pub value: u32,
}

/// Nothing.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Empty {}
