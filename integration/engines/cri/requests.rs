//! Requests as the kubelet makes them.

use std::collections::HashMap;

use k8s_cri::v1;
use k8s_cri::v1::security_profile::ProfileType;

use crate::{Container, Failure, Pod};

fn namespaces(share_pids: bool) -> v1::NamespaceOption {
    let pid = if share_pids { v1::NamespaceMode::Pod } else { v1::NamespaceMode::Container };
    // no network plugin is needed for the host's network
    let network = v1::NamespaceMode::Node;
    v1::NamespaceOption { network: network.into(), pid: pid.into(), ..Default::default() }
}

/// Configuration of a pod.
pub fn pod(pod: &Pod) -> v1::PodSandboxConfig {
    let security =
        v1::LinuxSandboxSecurityContext { namespace_options: Some(namespaces(pod.share_pids)), ..Default::default() };
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod.pod.clone(),
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            attempt: 0,
        }),
        log_directory: pod.logs.clone(),
        labels: labels(pod),
        annotations: pairs(&pod.annotations),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: pod.group.clone(),
            security_context: Some(security),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn labels(pod: &Pod) -> HashMap<String, String> {
    let labels = [("name", &pod.pod), ("namespace", &pod.namespace), ("uid", &pod.uid)];
    labels.map(|(key, value)| (format!("io.kubernetes.pod.{key}"), value.clone())).into()
}

fn pairs(words: &[String]) -> HashMap<String, String> {
    words.iter().filter_map(|word| word.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
}

fn profile(word: &str) -> v1::SecurityProfile {
    let (kind, file) = match word {
        "default" => (ProfileType::RuntimeDefault, ""),
        "unconfined" => (ProfileType::Unconfined, ""),
        file => (ProfileType::Localhost, file),
    };
    v1::SecurityProfile { profile_type: kind.into(), localhost_ref: file.to_owned() }
}

/// The request to create a container.
///
/// # Errors
/// A mount that is no pair.
pub fn container(container: &Container) -> Result<v1::CreateContainerRequest, Failure> {
    let mount = |word: &String| {
        let (host, inside) = word.split_once(':').ok_or("a mount is SOURCE:DESTINATION")?;
        Ok(v1::Mount { host_path: host.into(), container_path: inside.into(), readonly: true, ..Default::default() })
    };
    let mounts = container.mounts.iter().map(mount).collect::<Result<Vec<_>, Failure>>()?;
    let security = v1::LinuxContainerSecurityContext {
        namespace_options: Some(namespaces(container.pod.share_pids)),
        seccomp: Some(profile(&container.seccomp)),
        privileged: container.privileged,
        ..Default::default()
    };
    let resources =
        v1::LinuxContainerResources { cpu_shares: 256, memory_limit_in_bytes: 512 << 20, ..Default::default() };
    let mut labels = labels(&container.pod);
    labels.insert("io.kubernetes.container.name".to_owned(), container.name.clone());
    let config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: container.image.clone(), ..Default::default() }),
        command: container.words.clone(),
        mounts,
        labels,
        log_path: format!("{}.log", container.name),
        linux: Some(v1::LinuxContainerConfig { security_context: Some(security), resources: Some(resources) }),
        ..Default::default()
    };
    Ok(v1::CreateContainerRequest {
        pod_sandbox_id: container.sandbox.clone(),
        config: Some(config),
        sandbox_config: Some(pod(&container.pod)),
    })
}

/// The request to change a container's share of processor time.
pub fn update(id: String) -> v1::UpdateContainerResourcesRequest {
    let linux = v1::LinuxContainerResources { cpu_shares: 512, ..Default::default() };
    v1::UpdateContainerResourcesRequest { container_id: id, linux: Some(linux), ..Default::default() }
}
