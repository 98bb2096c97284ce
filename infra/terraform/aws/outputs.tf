output "bucket" {
  description = "The bucket; DVC's remote is a prefix in it."
  value       = aws_s3_bucket.store.bucket
}

output "image" {
  description = "For stack.image of params.yaml: where images are pushed to."
  value       = aws_ecr_repository.image.repository_url
}

output "database_host" {
  description = "For stack.database_host of params.yaml."
  value       = aws_db_instance.database.address
}

output "database_secret" {
  description = "Name (ARN) of the secret that holds the database administrator's password."
  value       = aws_db_instance.database.master_user_secret[0].secret_arn
}

output "kubeconfig_command" {
  description = "Lets kubectl talk to the cluster."
  value       = "aws eks update-kubeconfig --name ${aws_eks_cluster.cluster.name} --region ${var.region}"
}

output "gpu_nodes_command" {
  description = "Has so many GPU nodes there be, up to gpu_nodes_most; 0 ends their cost. An autoscaler does it by itself."
  value       = "aws eks update-nodegroup-config --cluster-name ${aws_eks_cluster.cluster.name} --nodegroup-name ${aws_eks_node_group.gpus.node_group_name} --region ${var.region} --scaling-config desiredSize=1"
}
