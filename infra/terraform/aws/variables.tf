variable "name" {
  description = "Of the stack; begins the names of everything in it. Also the Kubernetes namespace."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}$", var.name))
    error_message = "Expected 2 to 31 lower-case letters, digits and hyphens."
  }
}

variable "region" {
  description = "AWS region."
  type        = string
}

variable "bucket" {
  description = "Name of the bucket; all of S3 shares one space of names."
  type        = string
}

variable "vpc_id" {
  description = "The network that everything lies in."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets in at least two zones, with a way out (NAT) for images and packages."
  type        = list(string)
  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "EKS and RDS want subnets in two zones at least."
  }
}

variable "api_cidrs" {
  description = "Addresses that may reach the cluster's API; empty: those inside the network alone."
  type        = list(string)
  default     = []
}

variable "kubernetes_version" {
  description = "Of the cluster."
  type        = string
  default     = "1.33"
}

variable "database_class" {
  description = "Instance class of RDS."
  type        = string
  default     = "db.t4g.medium"
}

variable "database_multi_az" {
  description = "Whether RDS keeps a standby in another zone."
  type        = bool
  default     = false
}

variable "server_instance_type" {
  description = "Of the nodes for Prefect, MLflow and the worker."
  type        = string
  default     = "m7i.large"
}

variable "gpu_instance_type" {
  description = "Of the nodes that runs work on."
  type        = string
  default     = "g6e.2xlarge"
}

variable "gpu_nodes_most" {
  description = "Most GPU nodes at once; none is kept while nothing runs, if a cluster autoscaler is there."
  type        = number
  default     = 2
}

variable "gpu_spot" {
  description = "Whether GPU nodes are spot ones: cheaper, and taken away at any time, which costs a run its last steps."
  type        = bool
  default     = true
}

variable "gpu_disk_gib" {
  description = "Disk of a GPU node: the image, and the work of its runs."
  type        = number
  default     = 200
}

variable "old_versions_days" {
  description = "How long what was overwritten or deleted in the bucket can be had back."
  type        = number
  default     = 30
}

variable "protected" {
  description = "Whether bucket and database refuse to be destroyed."
  type        = bool
  default     = true
}
