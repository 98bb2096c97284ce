# `terraform test`, without AWS: what a plan makes of the variables.
mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{\"Version\": \"2012-10-17\", \"Statement\": []}" }
  }
}

variables {
  name       = "fewstep"
  region     = "eu-central-1"
  bucket     = "fewstep-store"
  vpc_id     = "vpc-1"
  subnet_ids = ["subnet-1", "subnet-2"]
}

run "what_must_not_be_lost_is_kept" {
  command = plan
  assert {
    condition     = aws_s3_bucket_versioning.store.versioning_configuration[0].status == "Enabled"
    error_message = "the bucket keeps no versions"
  }
  assert {
    condition     = aws_s3_bucket_lifecycle_configuration.store.rule[0].noncurrent_version_expiration[0].noncurrent_days == 30
    error_message = "old versions are not kept for 30 days"
  }
  assert {
    condition     = !aws_s3_bucket.store.force_destroy && aws_db_instance.database.deletion_protection
    error_message = "a destroy would take the data with it"
  }
  assert {
    condition     = aws_db_instance.database.backup_retention_period == 14
    error_message = "the database has no backups"
  }
}

run "nothing_is_open" {
  command = plan
  assert {
    condition     = aws_s3_bucket_public_access_block.store.restrict_public_buckets && aws_s3_bucket_public_access_block.store.block_public_policy
    error_message = "the bucket may be made public"
  }
  assert {
    condition     = !aws_eks_cluster.cluster.vpc_config[0].endpoint_public_access
    error_message = "the cluster's API is open although no address was given"
  }
  assert {
    condition     = aws_db_instance.database.manage_master_user_password && aws_db_instance.database.password == null
    error_message = "the database's password is known to Terraform"
  }
  assert {
    condition     = toset(keys(aws_iam_role.pods)) == toset(["run", "server"])
    error_message = "a role for each kind of pod that needs one, and no further"
  }
}

run "pods_have_what_they_need" {
  command = plan
  assert {
    condition     = aws_eks_pod_identity_association.disks.service_account == "ebs-csi-controller-sa" && aws_eks_pod_identity_association.disks.namespace == "kube-system"
    error_message = "the driver of disks has no rights: volume claims stay pending"
  }
  assert {
    condition     = !contains(keys(aws_iam_role_policy_attachment.nodes), "service-role/AmazonEBSCSIDriverPolicy")
    error_message = "each node may make disks"
  }
  assert {
    condition     = aws_db_instance.database.username != "fewstep"
    error_message = "the servers' password would change each week"
  }
  assert {
    condition     = aws_ecr_repository.image.image_tag_mutability == "IMMUTABLE"
    error_message = "an image may be replaced by another of its name"
  }
}

run "gpus_come_and_go" {
  command = plan
  variables { gpu_spot = false }
  assert {
    condition     = aws_eks_node_group.gpus.scaling_config[0].min_size == 0 && aws_eks_node_group.gpus.capacity_type == "ON_DEMAND"
    error_message = "GPU nodes are kept, or spot ones although none were asked for"
  }
  assert {
    condition     = one(aws_eks_node_group.gpus.taint).effect == "NO_SCHEDULE"
    error_message = "servers may take the place of runs"
  }
}

run "one_zone_is_refused" {
  command = plan
  variables { subnet_ids = ["subnet-1"] }
  expect_failures = [var.subnet_ids]
}
